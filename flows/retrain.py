"""The flow that retrains: version the data, run the stages, register, publish, check, compare, decide, promote."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task

from cbir.card_page import log_card
from cbir.contest import record_split
from cbir.errors import ReleaseError
from cbir.gate_report import OUTCOMES
from cbir.index.tables import publish_table
from cbir.records import read_json
from cbir.registry import NOTHING, open_registry
from cbir.retention import clean_up, plan_cleaning
from cbir.workspace import locate_index, lock_table
from flows.checks import check_params
from flows.data import commit_data, look_for_changes, push_outputs, run_stages
from flows.facts import collect_facts, list_evidence
from flows.faults import hide_tracebacks, may_pass
from flows.gate import (
    SPLIT_EVIDENCE,
    check_release,
    compare_champion,
    decide_release,
    find_release,
)
from flows.lock import hold_workspace
from flows.notices import check_block, find_untold, name_live, tell_failure, tell_outcome
from flows.stages import EMBEDDED, read_data_revision, read_rows_revision
from flows.standing import compare_live, summarise_run, was_left


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
    registry.record_told(release, NOTHING)
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
    registry, release = find_release(root, key)
    with lock_table(root, release.table):
        return publish_table(
            uri=locate_index(root),
            table=release.table,
            ingested=root / "data/ingested",
            embedded=root / "data/embedded",
            registry=registry.read_mark(),
        )


@task(name="promote", retries=2, retry_delay_seconds=[2, 10], retry_condition_fn=may_pass)
def promote(workspace: str, key: str) -> str:
    """Move the alias ``champion`` to a release that passed the gate, and return the outcome.

    A release that was live once is not promoted again: that is for a person to do.

    Raises:
        ReleaseError: the gate did not pass it, or did so against another champion.
    """
    root = Path(workspace)
    registry, release = find_release(root, key)
    champion = registry.find_champion()
    live = champion is not None and champion.version == release.version
    if champion is not None and not live and was_left(registry, release):
        get_run_logger().warning("release %s was live before; %s stays live", release.version, champion.version)
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


@flow(name="retrain", log_prints=True, on_failure=[tell_failure], on_crashed=[tell_failure])
def retrain(workspace: str) -> dict[str, Any]:
    """From raw files to a live release; run again after any failure, it finishes the job and duplicates nothing.

    Returns:
        ``version``, that is live, and ``outcome``: "unchanged", there was nothing to do; "promoted", it is the release
        of these data and parameters; "kept", that release was live before, and another one stays;
        "refused" or "inconclusive", the gate did not let it pass, for ``reasons``, and an older one stays.
    """
    hide_tracebacks()
    check_params(workspace)
    check_block(workspace)
    with hold_workspace(Path(workspace), say=get_run_logger().warning):
        return run_steps(workspace)


def run_steps(workspace: str) -> dict[str, Any]:
    """What `retrain` does, step by step; of two at once neither would know of the other's release."""
    logger = get_run_logger()
    changes = look_for_changes(workspace)
    if changes:
        logger.info("changed: %s", ", ".join(changes))
        run_stages(workspace, changes)
    push_outputs(workspace)
    commit_data(workspace)
    done = compare_live(workspace)
    if done is not None:
        logger.info("nothing to do: %s; %s", name_live(done), done["outcome"])
        end_run(workspace, find_untold(workspace, done))
        return done
    key = register_release(workspace)
    publish_index(workspace, key)
    check_release(workspace, key)
    compare_champion(workspace, key)
    verdict = decide_release(workspace, key)
    describe_release(workspace, key)
    outcome = promote(workspace, key) if verdict == "pass" else OUTCOMES[verdict]
    summary = summarise_run(workspace, outcome)
    logger.info("%s: %s", outcome, name_live(summary))
    end_run(workspace, summary)
    return summary


def end_run(workspace: str, told: Mapping[str, Any] | None) -> None:
    """What comes after an outcome, and does not change it: tell it, where there is one to tell, then clean up.

    What fails here is logged and left to the next run.
    """
    if told is not None:
        tell_outcome(workspace, told)
    state = clean_releases(workspace, return_state=True)
    if not state.is_completed():
        get_run_logger().warning(
            "not cleaned up: %s; mend that, and the next run does it, or `cbir-ops releases gc`", state.message
        )
