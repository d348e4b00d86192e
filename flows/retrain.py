"""The flow that retrains: version the data, run the stages, register, publish, check, compare, decide, promote."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task

from cbir.card_page import log_card
from cbir.contest import record_split
from cbir.errors import ReleaseError, WorkspaceError
from cbir.gate_report import OUTCOMES
from cbir.git import commit_pointers
from cbir.index import holds_release, publish_table
from cbir.params import ReleaseParams, load_section
from cbir.promotion import open_registry
from cbir.registry import Registry, Release, make_key
from cbir.retention import clean_up, plan_cleaning
from cbir.split import KEPT
from cbir.workspace import locate_index, lock_table
from flows.facts import collect_facts, list_evidence
from flows.faults import hide_tracebacks, may_pass
from flows.gate import (
    EMBEDDED,
    SPLIT_EVIDENCE,
    check_release,
    compare_champion,
    decide_release,
    find_release,
    make_gate_key,
    read_json,
)
from flows.stages import STAGES, find_changes, has_remote, read_data_revision, read_rows_revision, run_dvc


def find_current(root: Path) -> Release | None:
    """The live release, if it is whole and of exactly the data and stages that are in ``root``.

    Anything that a run killed halfway leaves to do makes it None: a release not registered or not promoted, a history
    without its last entry, a table that is not there.
    """
    registry = open_registry(root)
    champion = registry.find_champion()
    if champion is None or champion.key != read_key(root):
        return None
    recorded = [entry["version"] for entry in registry.read_history()][-1:] == [champion.version]
    whole = recorded and holds_release(
        uri=locate_index(root),
        table=champion.table,
        ingested=root / "data/ingested",
        embedded=root / "data/embedded",
    )
    return champion if whole else None


def find_standing(root: Path) -> dict[str, str] | None:
    """The outcome that stands for what is in ``root``: refused or inconclusive against this champion, or rolled back.

    A decision that hangs on how this machine answered is not one that stands.
    """
    registry = open_registry(root)
    champion, release = registry.find_champion(), registry.find(read_key(root))
    if release is None or (champion is not None and champion.version == release.version):
        return None
    if champion is not None and was_left(registry, release):
        return {"outcome": "kept", "candidate": release.version}
    tags = registry.read_gate_tags(release)
    if tags.get("verdict", "pass") == "pass" or tags["again"] == "True" or tags["key"] != make_gate_key(root, champion):
        return None
    return {"outcome": OUTCOMES[tags["verdict"]], "candidate": release.version, "reasons": tags["reasons"]}


def was_left(registry: Registry, release: Release) -> bool:
    """Whether a release that is not live was, once: a person decided so, and no run promotes it again."""
    return release.version in {entry["version"] for entry in registry.read_history()}


def read_key(root: Path) -> str:
    """Key of the release that the stages' outputs in ``root`` are."""
    fingerprint = read_json(root / EMBEDDED)["fingerprint"]
    return make_key(fingerprint, read_data_revision(root), read_rows_revision(root))


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


@task(name="keep the split", task_run_name="keep the split")
def keep_split(workspace: str) -> bool:
    """Make the split an input of the next one; False where it is that already."""
    root = Path(workspace)
    new, kept = root / "data/split" / KEPT, root / "data/kept" / KEPT
    if kept.exists() and kept.read_bytes() == new.read_bytes():
        return False
    beside = kept.with_name(f".{KEPT}.partial")
    shutil.copyfile(new, beside)
    beside.replace(kept)
    run_dvc(root, "add", f"data/kept/{KEPT}")
    return True


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


@task(name="compare with the live release", task_run_name="compare with the live release")
def compare_live(workspace: str) -> dict[str, Any] | None:
    """What the flow returns where there is nothing left to do, else None."""
    root = Path(workspace)
    current = find_current(root)
    if current is not None:
        return _summarise(root, {"outcome": "unchanged"})
    standing = find_standing(root)
    return None if standing is None else _summarise(root, standing)


def _summarise(root: Path, outcome: dict[str, str]) -> dict[str, Any]:
    """An outcome, with the version that is live, and the rows and the key of what the stages made."""
    champion = open_registry(root).find_champion()
    rows = read_json(root / EMBEDDED)["rows"]
    return {**outcome, "version": champion.version if champion else None, "rows": rows, "key": read_key(root)}


@task(name="register the release", retries=2, retry_delay_seconds=[2, 10], retry_condition_fn=may_pass)
def register_release(workspace: str) -> str:
    """Log the evidence, register the encoder and name it challenger; return the release key."""
    root = Path(workspace)
    registry = open_registry(root)
    with tempfile.TemporaryDirectory() as folder:
        split = Path(folder) / SPLIT_EVIDENCE
        record_split(root / "data/ingested", root / "data/split", split)
        release = registry.register(
            encoder=root / "data/encoder",
            fingerprint=read_json(root / EMBEDDED)["fingerprint"],
            data_revision=read_data_revision(root),
            rows_revision=read_rows_revision(root),
            metrics=read_json(root / "metrics.json"),
            files=[*list_evidence(root), split],
            now=datetime.now(UTC),
            facts=collect_facts(root),
        )
    champion = registry.find_champion()
    if champion is None or champion.version != release.version:
        registry.name_challenger(release)
    return release.key


@task(name="write the model card", retries=1, retry_delay_seconds=2, retry_condition_fn=may_pass)
def describe_release(workspace: str, key: str) -> None:
    """Log what a reviewer reads first; done again, it is written anew, with what has come to be known since."""
    root = Path(workspace)
    registry, release = find_release(root, key)
    with tempfile.TemporaryDirectory() as folder:
        log_card(root, registry=registry, release=release, folder=Path(folder))


@task(name="publish the index table", retries=2, retry_delay_seconds=[2, 10], retry_condition_fn=may_pass)
def publish_index(workspace: str, key: str) -> int:
    """Write the release's table beside the live one."""
    root = Path(workspace)
    _, release = find_release(root, key)
    with lock_table(root, release.table):
        return publish_table(
            uri=locate_index(root),
            table=release.table,
            ingested=root / "data/ingested",
            embedded=root / "data/embedded",
        )


@task(name="sum up", task_run_name="sum up")
def summarise_run(workspace: str, outcome: str) -> dict[str, Any]:
    """What the flow returns."""
    root = Path(workspace)
    if outcome in ("promoted", "kept"):
        return _summarise(root, {"outcome": outcome})
    _, release = find_release(root, read_key(root))
    reasons = open_registry(root).read_gate_tags(release)["reasons"]
    return _summarise(root, {"outcome": outcome, "candidate": release.version, "reasons": reasons})


@task(name="promote", retries=2, retry_delay_seconds=[2, 10], retry_condition_fn=may_pass)
def promote(workspace: str, key: str) -> str:
    """Move the alias ``champion`` to a release that passed the gate, and return the outcome.

    A release that was live once and was rolled back from is not promoted again: a person decided so.

    Raises:
        ReleaseError: the gate did not pass it, or did so against another champion.
    """
    root = Path(workspace)
    registry, release = find_release(root, key)
    champion = registry.find_champion()
    live = champion is not None and champion.version == release.version
    if champion is not None and not live and was_left(registry, release):
        get_run_logger().warning("release %s was rolled back from; %s stays live", release.version, champion.version)
        return "kept"
    tags = registry.read_gate_tags(release)
    decided = tags.get("verdict"), tags.get("champion")
    if not live and decided != ("pass", champion.version if champion else "none"):
        raise ReleaseError(
            f"Release {release.version} has not passed the gate against what is live now; run `cbir-ops retrain` again."
        )
    registry.promote(release, reason="passed the gate", now=datetime.now(UTC))
    return "promoted"


@task(name="clean up", retries=1, retry_delay_seconds=2, retry_condition_fn=may_pass)
def clean_releases(workspace: str) -> list[str]:
    """Remove what is beyond ``release.keep``; return the versions that went."""
    root, now = Path(workspace), datetime.now(UTC)
    gone = clean_up(root, plan_cleaning(root, keep=None, now=now), now=now)
    for removal in gone:
        size = (removal.table_bytes + removal.model_bytes) / 1e6
        get_run_logger().info("removed release %s, %s: %.1f MB", removal.version, removal.why, size)
    return [removal.version for removal in gone]


@flow(name="retrain", log_prints=True)
def retrain(workspace: str) -> dict[str, Any]:
    """From raw files to a live release; run again after any failure, it finishes the job and duplicates nothing.

    Returns:
        ``version``, that is live, and ``outcome``: "unchanged", there was nothing to do; "promoted", it is the release
        of these data and parameters; "kept", that release was rolled back from before and an older one stays;
        "refused" or "inconclusive", the gate did not let it pass, for ``reasons``, and an older one stays.
    """
    hide_tracebacks()
    logger = get_run_logger()
    changes = look_for_changes(workspace)
    if changes:
        logger.info("changed: %s", ", ".join(changes))
        version_data(workspace)
        for stage in STAGES:
            run_stage(workspace, stage)
            if stage == "split" and keep_split(workspace):
                run_stage(workspace, stage)  # with itself as an input now; it comes out as it was
    push_outputs(workspace)
    commit_data(workspace)
    done = compare_live(workspace)
    if done is not None:
        logger.info("nothing to do: release %s is live; %s", done["version"], done["outcome"])
        return done
    key = register_release(workspace)
    publish_index(workspace, key)
    check_release(workspace, key)
    compare_champion(workspace, key)
    verdict = decide_release(workspace, key)
    describe_release(workspace, key)
    outcome = promote(workspace, key) if verdict == "pass" else OUTCOMES[verdict]
    summary = summarise_run(workspace, outcome)
    clean_releases(workspace)
    logger.info("%s: release %s is live", outcome, summary["version"])
    return summary
