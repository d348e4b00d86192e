"""The flow that brings new, changed and deleted pictures to the live index, without a training."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact

from cbir.refresh import MOST_DELETED, refresh_table
from flows.faults import hide_tracebacks, may_pass


@task(name="refresh the live table", retries=2, retry_delay_seconds=[2, 10], retry_condition_fn=may_pass)
def refresh_live(workspace: str, most_deleted: float) -> dict[str, Any]:
    """Embed what is new or changed, and commit it with what was deleted."""
    return asdict(refresh_table(Path(workspace), now=datetime.now(UTC), most_deleted=most_deleted))


@flow(name="refresh", log_prints=True)
def refresh(workspace: str, most_deleted: float = MOST_DELETED) -> dict[str, Any]:
    """Bring the live table in step with ``data/raw``; run again after any failure, it finishes the job.

    Returns:
        How many items were added, changed, deleted, unchanged and embedded, and how many rows there are now.

    Raises:
        ReleaseError: no release is live.
        SourceError: there is no raw data, it cannot be read, or it lacks more than the share ``most_deleted`` of the
            rows.
        IndexError_: the table is missing or does not match.
    """
    hide_tracebacks()
    logger = get_run_logger()
    found = refresh_live(workspace, most_deleted)
    for reason in found["refused"][:20]:
        logger.warning("left out %s", reason)
    for reason in found["unreadable"][:20]:
        logger.warning("as it was before: %s", reason)
    if found["unsearchable"]:
        names = ", ".join(found["unsearchable"])
        logger.warning("not searchable by before the next retrain: %s", names)
    counts = {name: found[name] for name in ("added", "changed", "deleted", "unchanged", "embedded", "rows")}
    create_table_artifact(key="refresh", table=[counts], description=f"table {found['table']}")
    logger.info("release %s: %s", found["version"], counts)
    return found
