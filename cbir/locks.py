"""One process at a time, by a lock that the operating system frees when its holder dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cbir.errors import CbirError

LOCKS = Path(".cbir/locks")  # in the workspace
POLL = 0.1  # seconds between two looks at most


@contextmanager
def hold_lock(
    path: Path, *, busy: CbirError, patience: float = 0.0, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Be the only one who holds the file ``path``; where another does, call ``on_wait``, then wait.

    Raises:
        CbirError: ``busy``, where the other did not end within ``patience`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _wait(lock, busy=busy, patience=patience, on_wait=on_wait)
    try:
        yield
    finally:
        lock.release()


def _wait(lock: FileLock, *, busy: CbirError, patience: float, on_wait: Callable[[], None] | None) -> None:
    if on_wait is not None:
        on_wait()
    try:
        lock.acquire(timeout=patience, poll_interval=min(POLL, patience / 2))
    except Timeout:
        raise busy from None
