"""One run of `retrain` in a workspace at a time: two would both find the same release missing, and make it twice."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from cbir.errors import WorkspaceError

LOCK, HOLDER = Path(".cbir/locks/retrain.lock"), Path(".cbir/locks/retrain.holder")
PATIENCE = 24 * 3600.0  # seconds


@contextmanager
def hold_workspace(workspace: Path, *, say: Callable[[str], None], patience: float = PATIENCE) -> Iterator[None]:
    """Be the only run in ``workspace``; ``say`` is told for whom it waits. A killed process holds nothing.

    Raises:
        WorkspaceError: another run did not end within ``patience`` seconds.
    """
    (workspace / LOCK).parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(workspace / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _wait(lock, workspace / HOLDER, say=say, patience=patience)
    try:
        (workspace / HOLDER).write_text(
            f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        )
        yield
    finally:
        lock.release()


def _wait(lock: FileLock, holder: Path, *, say: Callable[[str], None], patience: float) -> None:
    other = holder.read_text() if holder.exists() else "another process"
    say(f"waiting for the retrain of this workspace that is running already ({other})")
    try:
        lock.acquire(timeout=patience, poll_interval=min(1.0, patience / 2))
    except Timeout:
        raise WorkspaceError(
            f"Another retrain of this workspace has not ended within {patience:.0f} s ({other}); wait for it, or stop "
            "it, and run `cbir-ops retrain` again."
        ) from None
