"""What a run does to the data: version it, run the stages on it, keep its split, push and commit it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from prefect import get_run_logger, task

from cbir.errors import WorkspaceError
from cbir.git import commit_pointers
from cbir.params import ReleaseParams
from cbir.params.file import load_section
from cbir.records import read_json
from cbir.sources import lock_imports
from cbir.split import KEPT
from flows.stages import EMBEDDED, find_changes, has_remote, read_data_revision, read_yaml, run_dvc, select_stages


@task(name="look for changes", task_run_name="look for changes")
def look_for_changes(workspace: str) -> list[str]:
    """What changed since the stages last ran, as DVC sees it.

    Raises:
        WorkspaceError: there is no raw data.
    """
    root = Path(workspace)
    if not any((root / "data" / "raw").glob("*/items.jsonl")):
        raise WorkspaceError("data/raw holds no source; run `cbir-ops data import openmoji`, or import a folder.")
    return find_changes(root)


@task(name="version the data", task_run_name="version the data")
def version_data(workspace: str) -> None:
    """``dvc add`` the raw folder."""
    run_dvc(Path(workspace), "add", "data/raw")


@task(task_run_name="stage {stage}", timeout_seconds=6 * 3600)
def run_stage(workspace: str, stage: str) -> None:
    """``dvc repro`` one stage; its lines go to the log as they come."""
    run_dvc(Path(workspace), "repro", "--single-item", stage, say=get_run_logger().info)


def run_stages(workspace: str, changes: Sequence[str]) -> None:
    """Version the raw data and run the stages from the first changed one on.

    Imports wait until the raw data were versioned and ingested: DVC hashes what a stage has read after it ran, and
    would take for ingested what came meanwhile.
    """
    for stage in select_stages(changes):
        if stage == "ingest":
            with lock_imports(Path(workspace) / "data/raw"):
                version_data(workspace)
                run_stage(workspace, stage)
        else:
            run_stage(workspace, stage)
        if stage == "split" and keep_split(workspace):
            run_stage(workspace, stage)  # with itself as an input now; it comes out as it was


@task(name="keep the split", task_run_name="keep the split")
def keep_split(workspace: str) -> bool:
    """Make the split an input of the next one; False where it is that already.

    Killed between the file and DVC's pointer to it, it writes the pointer when done again.
    """
    root = Path(workspace)
    new, kept = root / "data/split" / KEPT, root / "data/kept" / KEPT
    changed = not kept.exists() or kept.read_bytes() != new.read_bytes()
    if changed:
        beside = kept.with_name(f".{KEPT}.partial")
        shutil.copyfile(new, beside)
        beside.replace(kept)
    if changed or not _is_pointed_to(kept):
        run_dvc(root, "add", f"data/kept/{KEPT}")
    return changed


def _is_pointed_to(path: Path) -> bool:
    """Whether DVC's pointer beside ``path`` is of its bytes."""
    pointer = path.with_name(f"{path.name}.dvc")
    return pointer.exists() and read_yaml(pointer)["outs"][0]["md5"] == hashlib.md5(path.read_bytes()).hexdigest()


@task(name="push to the remote", retries=2, retry_delay_seconds=[2, 10])
def push_outputs(workspace: str) -> bool:
    """``dvc push`` the data and every stage's output that the remote lacks; False where none is configured."""
    root = Path(workspace)
    if not has_remote(root):
        return False
    run_dvc(root, "push", say=get_run_logger().info)
    return True


@task(name="commit the pointers")
def commit_data(workspace: str) -> str | None:
    """Commit what this run wrote for git, and nothing else, where ``release.commit`` says so."""
    root = Path(workspace)
    if not load_section(root / "params.yaml", "release", ReleaseParams).commit:
        return None
    rows, revision = read_json(root / EMBEDDED)["rows"], read_data_revision(root)
    message = f"Retrain: pointers and figures of {rows} rows, data {revision[:8]}"
    commit = commit_pointers(root, message=message)
    if commit:
        get_run_logger().info("committed %s: %s", commit[:8], message)
    return commit
