"""Folders to work in that go away, also after a process that was killed in one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from cbir.errors import WorkspaceError
from cbir.locks import hold_lock

SCRATCH = Path(".cbir/scratch")  # in the workspace
LOCK = ".lock"
PATIENCE = 10.0  # seconds


@contextmanager
def make_scratch(workspace: Path) -> Iterator[Path]:
    """An empty folder of one's own below the workspace, on the same disk as its data; it is removed at the end.

    What a killed process left is removed first: the lock beside its folder is free.
    """
    top = workspace.resolve() / SCRATCH
    _sweep(top)
    folder = top / uuid4().hex[:12]
    lock = folder.with_suffix(LOCK)
    try:
        with hold_lock(lock, busy=_tell_busy(lock), patience=PATIENCE):  # one that sweeps may look at it just now
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.unlink(missing_ok=True)


def _sweep(top: Path) -> None:
    for lock in top.glob(f"*{LOCK}"):
        with suppress(WorkspaceError), hold_lock(lock, busy=_tell_busy(lock)):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)


def _tell_busy(lock: Path) -> WorkspaceError:
    return WorkspaceError(f"Another process holds {lock}; try again.")
