"""One run of `retrain` in a workspace at a time: two would both find the same release missing, and make it twice."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cbir.errors import WorkspaceError
from cbir.locks import LOCKS, hold_lock

LOCK, HOLDER = LOCKS / "retrain.lock", LOCKS / "retrain.holder"
PATIENCE = 24 * 3600.0  # seconds


@contextmanager
def hold_workspace(workspace: Path, *, say: Callable[[str], None], patience: float = PATIENCE) -> Iterator[None]:
    """Be the only run in ``workspace``; ``say`` is told for whom it waits. A killed process holds nothing.

    Raises:
        WorkspaceError: another run did not end within ``patience`` seconds.
    """
    holder = workspace / HOLDER
    other = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
    busy = WorkspaceError(
        f"Another retrain of this workspace has not ended within {patience:.0f} s ({other}); wait for it, or stop it, "
        "and run `cbir-ops retrain` again."
    )

    def on_wait() -> None:
        say(f"waiting for the retrain of this workspace that is running already ({other})")

    with hold_lock(workspace / LOCK, busy=busy, patience=patience, on_wait=on_wait):
        me = f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        holder.write_text(me, encoding="utf-8")
        yield
