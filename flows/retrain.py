"""The flow that retrains: version the data, run the stages, register, publish, check, promote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from prefect import flow, get_run_logger, task

from cbir.errors import IndexError_, ReleaseError, StageError, WorkspaceError
from cbir.index import publish_table
from cbir.params import ReleaseParams, load_section
from cbir.registry import Registry, Release, flatten_metrics
from cbir.search import Searcher, locate_index

STAGES = ("ingest", "validate", "split", "train", "embed", "evaluate")
LOCKED = ("Unable to acquire lock", "is busy, it is being blocked by")
QUIET = {"DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "true"}


def run_dvc(workspace: Path, *arguments: str, patience: float = 600.0) -> str:
    """Run one DVC command in ``workspace``, its stages with this interpreter; wait while another run holds the lock.

    Raises:
        StageError: it failed, or the lock was held for longer than ``patience`` seconds.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    deadline = time.monotonic() + patience
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=workspace,
            env=os.environ | QUIET | {"PATH": path},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return done.stdout
        said = done.stdout + done.stderr
        if not any(words in said for words in LOCKED) or time.monotonic() > deadline:
            raise StageError(f"`dvc {' '.join(arguments)}` failed:\n{_pick_errors(said)}")
        time.sleep(2.0)


def _pick_errors(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    first = next((n for n, line in enumerate(lines) if line.startswith("error: ")), max(len(lines) - 15, 0))
    return "\n".join(lines[first:])


def read_data_revision(workspace: Path) -> str:
    """Hash of the DVC output of the raw data."""
    pointer = yaml.safe_load((workspace / "data" / "raw.dvc").read_text())
    return str(pointer["outs"][0]["md5"])


def read_rows_revision(workspace: Path) -> str:
    """Hashes of the DVC outputs that the index table is built from."""
    stages = yaml.safe_load((workspace / "dvc.lock").read_text())["stages"]
    return ":".join(stages[name]["outs"][0]["md5"] for name in ("ingest", "embed"))


def check_floor(metrics: dict[str, Any], floor: dict[str, float]) -> None:
    """Refuse a release below the absolute floor; a missing metric fails.

    Raises:
        ReleaseError: a metric is below its floor or missing.
    """
    flat = flatten_metrics(metrics)
    low = [
        f"{name} is {flat[name]:.3f}, below {least:.3f}" if name in flat else f"{name} is not in metrics.json"
        for name, least in floor.items()
        if flat.get(name, float("-inf")) < least
    ]
    if low:
        raise ReleaseError(f"Not promoted: {'; '.join(low)}. Search is as it was; see release.floor in params.yaml.")


@task(name="version the data", task_run_name="version the data")
def version_data(workspace: str) -> str:
    """``dvc add`` the raw folder and push it where a remote is configured; return its revision."""
    root = Path(workspace)
    if not any((root / "data" / "raw").glob("*/items.jsonl")):
        raise WorkspaceError("data/raw holds no source; run `cbir-ops data import openmoji`, or import a folder.")
    run_dvc(root, "add", "data/raw")
    if run_dvc(root, "remote", "list").strip():
        run_dvc(root, "push", "data/raw.dvc")
    return read_data_revision(root)


@task(task_run_name="stage {stage}", timeout_seconds=6 * 3600)
def run_stage(workspace: str, stage: str) -> None:
    """``dvc repro`` one stage."""
    run_dvc(Path(workspace), "repro", "--single-item", stage)


@task(name="register the release", retries=2, retry_delay_seconds=[2, 10])
def register_release(workspace: str, revision: str) -> str:
    """Log the evidence and register the encoder; return the release key."""
    root = Path(workspace)
    params = load_section(root / "params.yaml", "release", ReleaseParams)
    metrics = json.loads((root / "metrics.json").read_text())
    check_floor(metrics, params.floor)
    facts = json.loads((root / "data/embedded/embedded.json").read_text())
    release = Registry(root, name=params.name).register(
        encoder=root / "data/encoder",
        fingerprint=facts["fingerprint"],
        data_revision=revision,
        rows_revision=read_rows_revision(root),
        metrics=metrics,
        files=[root / "metrics.json", root / "data/validated/validation.json", root / "params.yaml", root / "dvc.lock"],
        now=datetime.now(UTC),
    )
    return release.key


@task(name="publish the index table", retries=2, retry_delay_seconds=[2, 10])
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
    embedded = json.loads((root / "data/embedded/embedded.json").read_text())["rows"]
    answered = len(searcher.query(text="a test query", image=None, k=10))
    if searcher.rows != embedded or answered != min(10, embedded):
        raise IndexError_(f"Table {release.table} does not answer as it should; run `cbir-ops retrain` again.")


@task(name="promote", retries=2, retry_delay_seconds=[2, 10])
def promote(workspace: str, key: str) -> str:
    """Move the alias ``champion`` and return the version that is live.

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
            return champion.version
    registry.promote(release, reason="passed the floor and the checks", now=datetime.now(UTC))
    return release.version


def _find_release(root: Path, key: str) -> tuple[Registry, Release]:
    registry = Registry(root, name=load_section(root / "params.yaml", "release", ReleaseParams).name)
    release = registry.find(key)
    assert release is not None, "registered one task ago"
    return registry, release


@flow(name="retrain", log_prints=True)
def retrain(workspace: str) -> dict[str, Any]:
    """From raw files to a live release; run again after any failure, it finishes the job and duplicates nothing."""
    logger = get_run_logger()
    revision = version_data(workspace)
    for stage in STAGES:
        logger.info("stage %s", stage)
        run_stage(workspace, stage)
    key = register_release(workspace, revision)
    rows = publish_index(workspace, key)
    check_release(workspace, key)
    version = promote(workspace, key)
    logger.info("release %s is live", version)
    return {"version": version, "rows": rows, "key": key, "data_revision": revision}
