"""The flow that goes back: the release that was live before, or a named one, by one alias move."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from cbir.promotion import roll_back
from cbir.registry import open_registry
from flows.faults import hide_tracebacks


@flow(name="rollback", log_prints=True)
def rollback(workspace: str, reason: str, to: str | None = None) -> dict[str, Any]:
    """Make an earlier release live again, model and table together; ``to`` is its version.

    Returns:
        What was live before, what is now, its table, and how many seconds the move took.

    Raises:
        ReleaseError: there is no such release, or no reason.
        IndexError_: its table is missing or does not match.
    """
    hide_tracebacks()
    root = Path(workspace)
    move = roll_back(root, to=to, reason=reason, now=datetime.now(UTC))
    history = open_registry(root).read_history()[-10:][::-1]
    create_table_artifact(key="rollback", table=history, description=f"release {move.version} is live: {reason}")
    get_run_logger().info("release %s is live, after %s: %s", move.version, move.before, reason)
    return asdict(move)
