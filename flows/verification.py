"""Whether a release can be made again from its git commit and its data, and comes out the same."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cbir.errors import GitError, ReleaseError
from cbir.git import check_out
from cbir.outputs import find_cache
from cbir.records import read_json
from cbir.registry import Release, flatten_metrics, open_registry
from cbir.scratch import make_scratch
from flows.stages import run_dvc

EXACT = ("ingest", "validate", "split")  # equal bytes; later stages compute, and are held to their figures
METRICS = "metrics.json"
REMOTE = re.compile(r"remote\.(.+?)\.url=(.*)")  # as `dvc config --list` prints it
Lock = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing compared; ``verdict``: equal, within, or DIFFERS."""

    stage: str
    what: str
    expected: str
    got: str
    tolerance: str
    verdict: str


def verify_release(workspace: Path, *, version: str, tolerance: float, say: Callable[[str], None]) -> list[Row]:
    """Compute a release anew, in a clone below the workspace and with this interpreter, and compare stage by stage.

    Every stage runs: nothing comes from the run cache, and nothing is written to the DVC cache.

    Raises:
        ReleaseError: there is no such release, or it was made from files that are not committed.
        GitError: its commit is not there.
        StageError: its data cannot be had, or a stage fails.
    """
    registry = open_registry(workspace)
    release = registry.get_version(version)
    commit = _read_commit(release)
    expected = read_json(registry.fetch_evidence(release, METRICS))
    with make_scratch(workspace) as scratch:
        clone = _check_out(workspace, commit=commit, folder=scratch / "clone", release=release)
        say(f"commit {commit[:8]} in {clone}")
        committed = _read_lock(clone)
        share_stores(workspace, clone)
        run_dvc(clone, "pull", *_list_pointers(clone), say=say)
        run_dvc(clone, "repro", "--force", "--no-run-cache", "--no-commit", say=say)
        got = read_json(clone / METRICS)
        return [*compare_locks(committed, _read_lock(clone)), *compare_metrics(expected, got, tolerance=tolerance)]


def hold(rows: list[Row]) -> bool:
    """Whether the release came out the same."""
    return all(row.verdict != "DIFFERS" for row in rows)


def compare_locks(expected: Lock, got: Lock) -> Iterator[Row]:
    """Hash of every output: where a stage is not exact, another one is told, and its figures decide."""
    for stage, entry in expected["stages"].items():
        found = {out["path"]: out["md5"] for out in got["stages"].get(stage, {}).get("outs", [])}
        for out in entry["outs"]:
            if out["path"] == METRICS:
                continue
            hash_ = found.get(out["path"], "missing")
            exact = stage in EXACT or hash_ == "missing"
            verdict = "equal" if hash_ == out["md5"] else "DIFFERS" if exact else "by its figures"
            yield Row(
                stage=stage,
                what=out["path"],
                expected=out["md5"][:12],
                got=hash_[:12],
                tolerance="equal" if stage in EXACT else "figures",
                verdict=verdict,
            )


def compare_metrics(expected: Mapping[str, Any], got: Mapping[str, Any], *, tolerance: float) -> Iterator[Row]:
    """Every figure; those that are equal are counted in one row."""
    was, is_ = flatten_metrics(expected), flatten_metrics(got)
    equal = [name for name in was if is_.get(name) == was[name]]
    same = f"{len(equal)} figures"
    yield Row(stage="evaluate", what=METRICS, expected=same, got=same, tolerance="equal", verdict="equal")
    for name in sorted({*was, *is_} - set(equal)):
        near = name in was and name in is_ and abs(was[name] - is_[name]) <= tolerance
        yield Row(
            stage="evaluate",
            what=name,
            expected=f"{was[name]:.6f}" if name in was else "missing",
            got=f"{is_[name]:.6f}" if name in is_ else "missing",
            tolerance=f"{tolerance:g}",
            verdict="within" if near else "DIFFERS",
        )


def share_stores(workspace: Path, clone: Path) -> None:
    """Let ``clone`` find its data in the workspace's DVC cache and remotes, whose URLs may be relative."""
    local = workspace / ".dvc" / "config.local"
    if local.exists():
        shutil.copy(local, clone / ".dvc" / "config.local")
    run_dvc(clone, "cache", "dir", "--local", str(find_cache(workspace).resolve()))
    for name, url in list_remotes(workspace).items():
        run_dvc(clone, "remote", "add", "--local", "--force", name, url)


def list_remotes(workspace: Path) -> dict[str, str]:
    """URLs of DVC's remotes by their names, absolute; `dvc remote list` breaks long ones into lines."""
    found = (REMOTE.fullmatch(line) for line in run_dvc(workspace, "config", "--list"))
    return {match[1]: match[2] for match in found if match}


def _read_commit(release: Release) -> str:
    commit = release.tags.get("git_commit")
    if commit is None or release.tags.get("git_dirty") != "false":
        changed = release.tags.get("git_changed")
        raise ReleaseError(
            f"Release {release.version} was made from files that are not committed"
            f"{f': {changed}' if changed else ''}. Set `release.commit: true` in params.yaml, commit your own changes, "
            "and run `cbir-ops retrain`: the next release can be verified."
        )
    return commit


def _check_out(workspace: Path, *, commit: str, folder: Path, release: Release) -> Path:
    try:
        return check_out(workspace, commit=commit, folder=folder)
    except GitError as error:
        raise GitError(
            f"The commit {commit} of release {release.version} cannot be checked out ({error}); fetch it."
        ) from None


def _list_pointers(clone: Path) -> list[str]:
    return sorted(path.relative_to(clone).as_posix() for path in (clone / "data").rglob("*.dvc"))


def _read_lock(root: Path) -> Lock:
    lock: Lock = yaml.safe_load((root / "dvc.lock").read_text())
    return lock
