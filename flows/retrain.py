"""The flow that retrains: version the data, run the stages, register, publish, check, promote, clean up."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task

from cbir.card_page import log_card
from cbir.errors import IndexError_, ReleaseError, WorkspaceError
from cbir.git import commit_pointers
from cbir.index import holds_release, publish_table
from cbir.params import ReleaseParams, load_section
from cbir.registry import Registry, Release, flatten_metrics, make_key
from cbir.retention import clean_up, plan_cleaning
from cbir.search import Searcher, locate_index
from flows.facts import collect_facts, list_evidence
from flows.faults import hide_tracebacks, may_pass
from flows.stages import STAGES, find_changes, has_remote, read_data_revision, read_rows_revision, run_dvc

EMBEDDED = Path("data/embedded/embedded.json")


def list_low(metrics: dict[str, Any], floor: dict[str, float]) -> list[str]:
    """Which metrics are below their floor or missing, in words."""
    flat = flatten_metrics(metrics)
    return [
        f"{name} is {flat[name]:.3f}, below {least:.3f}" if name in flat else f"{name} is not in metrics.json"
        for name, least in floor.items()
        if flat.get(name, float("-inf")) < least
    ]


def check_floor(metrics: dict[str, Any], floor: dict[str, float]) -> None:
    """Refuse a release below the absolute floor; a missing metric fails.

    Raises:
        ReleaseError: a metric is below its floor or missing.
    """
    low = list_low(metrics, floor)
    if low:
        raise ReleaseError(f"Not promoted: {'; '.join(low)}. Search is as it was; see release.floor in params.yaml.")


def find_current(root: Path) -> Release | None:
    """The live release, if it is whole and of exactly the data, stages and floor that are in ``root``.

    Anything that a run killed halfway leaves to do makes it None: a release not registered or not promoted, a history
    without its last entry, a table that is not there.
    """
    params = load_section(root / "params.yaml", "release", ReleaseParams)
    registry = Registry(root, name=params.name)
    champion = registry.find_champion()
    facts = _read_json(root / EMBEDDED)
    if champion is None or champion.key != make_key(
        facts["fingerprint"], read_data_revision(root), read_rows_revision(root)
    ):
        return None
    if list_low(_read_json(root / "metrics.json"), params.floor):
        return None
    recorded = [entry["version"] for entry in registry.read_history()][-1:] == [champion.version]
    whole = recorded and holds_release(uri=locate_index(root), table=champion.table, embedded=root / "data/embedded")
    return champion if whole else None


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
    rows, revision = _read_json(root / EMBEDDED)["rows"], read_data_revision(root)
    message = f"Retrain: pointers and figures of {rows} rows, data {revision[:8]}"
    commit = commit_pointers(root, message=message)
    if commit:
        get_run_logger().info("committed %s: %s", commit[:8], message)
    return commit


@task(name="compare with the live release", task_run_name="compare with the live release")
def compare_live(workspace: str) -> dict[str, Any] | None:
    """What the flow returns where there is nothing left to do, else None."""
    root = Path(workspace)
    current = find_current(root)
    if current is None:
        return None
    rows = _read_json(root / EMBEDDED)["rows"]
    return {"outcome": "unchanged", "version": current.version, "rows": rows, "key": current.key}


@task(name="register the release", retries=2, retry_delay_seconds=[2, 10], retry_condition_fn=may_pass)
def register_release(workspace: str) -> str:
    """Log the evidence and register the encoder; return the release key."""
    root = Path(workspace)
    params = load_section(root / "params.yaml", "release", ReleaseParams)
    metrics = _read_json(root / "metrics.json")
    check_floor(metrics, params.floor)
    release = Registry(root, name=params.name).register(
        encoder=root / "data/encoder",
        fingerprint=_read_json(root / EMBEDDED)["fingerprint"],
        data_revision=read_data_revision(root),
        rows_revision=read_rows_revision(root),
        metrics=metrics,
        files=list_evidence(root),
        now=datetime.now(UTC),
        facts=collect_facts(root),
    )
    return release.key


@task(name="write the model card", retries=1, retry_delay_seconds=2, retry_condition_fn=may_pass)
def describe_release(workspace: str, key: str) -> None:
    """Log what a reviewer reads first; done again, it is written anew, with what has come to be known since."""
    root = Path(workspace)
    registry, release = _find_release(root, key)
    with tempfile.TemporaryDirectory() as folder:
        log_card(root, registry=registry, release=release, folder=Path(folder))


@task(name="publish the index table", retries=2, retry_delay_seconds=[2, 10], retry_condition_fn=may_pass)
def publish_index(workspace: str, key: str) -> int:
    """Write the release's table beside the live one."""
    root = Path(workspace)
    _, release = _find_release(root, key)
    return publish_table(
        uri=locate_index(root), table=release.table, ingested=root / "data/ingested", embedded=root / "data/embedded"
    )


@task(name="check the release as users will hit it")
def check_release(workspace: str, key: str) -> None:
    """Open the release, compare the table's rows with the vectors embedded, and ask one query."""
    root = Path(workspace)
    registry, release = _find_release(root, key)
    searcher = Searcher.open_release(root, registry=registry, release=release)
    embedded = _read_json(root / EMBEDDED)["rows"]
    answered = len(searcher.query(text="a test query", image=None, k=10))
    if searcher.rows != embedded or answered != min(10, embedded):
        raise IndexError_(f"Table {release.table} does not answer as it should; run `cbir-ops retrain` again.")


@task(name="promote", retries=2, retry_delay_seconds=[2, 10])
def promote(workspace: str, key: str) -> dict[str, str]:
    """Move the alias ``champion``; return the version that is live, and how it came.

    A release that was live once and was rolled back from is not promoted again: a person decided so.
    """
    root = Path(workspace)
    registry, release = _find_release(root, key)
    champion = registry.find_champion()
    if champion is not None:
        promoted = {entry["version"] for entry in registry.read_history()}
        if champion.version != release.version and release.version in promoted:
            get_run_logger().warning(
                "release %s was rolled back from; %s stays live", release.version, champion.version
            )
            return {"outcome": "kept", "version": champion.version}
    registry.promote(release, reason="passed the floor and the checks", now=datetime.now(UTC))
    return {"outcome": "promoted", "version": release.version}


@task(name="clean up", retries=1, retry_delay_seconds=2, retry_condition_fn=may_pass)
def clean_releases(workspace: str) -> list[str]:
    """Remove what is beyond ``release.keep``; return the versions that went."""
    root, now = Path(workspace), datetime.now(UTC)
    gone = clean_up(root, plan_cleaning(root, keep=None, now=now), now=now)
    for removal in gone:
        size = (removal.table_bytes + removal.model_bytes) / 1e6
        get_run_logger().info("removed release %s, %s: %.1f MB", removal.version, removal.why, size)
    return [removal.version for removal in gone]


def _find_release(root: Path, key: str) -> tuple[Registry, Release]:
    registry = Registry(root, name=load_section(root / "params.yaml", "release", ReleaseParams).name)
    release = registry.find(key)
    assert release is not None, "registered one task ago"
    return registry, release


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


@flow(name="retrain", log_prints=True)
def retrain(workspace: str) -> dict[str, Any]:
    """From raw files to a live release; run again after any failure, it finishes the job and duplicates nothing.

    Returns:
        The version that is live, and ``outcome``: "unchanged", there was nothing to do; "promoted", it is the release
        of these data and parameters; "kept", that release was rolled back from before and an older one stays.
    """
    hide_tracebacks()
    logger = get_run_logger()
    changes = look_for_changes(workspace)
    if changes:
        logger.info("changed: %s", ", ".join(changes))
        version_data(workspace)
        for stage in STAGES:
            run_stage(workspace, stage)
    push_outputs(workspace)
    commit_data(workspace)
    current = None if changes else compare_live(workspace)
    if current is not None:
        logger.info("nothing to do: release %s is live and is of these data and parameters", current["version"])
        return current
    key = register_release(workspace)
    rows = publish_index(workspace, key)
    check_release(workspace, key)
    describe_release(workspace, key)
    live = promote(workspace, key)
    clean_releases(workspace)
    logger.info("release %s is live", live["version"])
    return {**live, "rows": rows, "key": key}
