"""How an import takes the place of the one before: alone, and whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbir.errors import SourceError
from cbir.locks import hold_lock
from cbir.records import settle_folder

PATIENCE = 3600.0  # seconds


@contextmanager
def lock_imports(raw: Path, *, patience: float = PATIENCE) -> Iterator[None]:
    """Keep imports into ``raw`` out, with what a killed one had set aside put back.

    Raises:
        SourceError: an import did not end within ``patience`` seconds.
    """
    busy = SourceError(
        f"Another import into {raw}, or what reads it, still runs after {patience:.0f} s; wait for it to end, "
        "then run this again."
    )

    def on_wait() -> None:
        print(f"waiting for another import into {raw}, or what reads it, to end", file=sys.stderr)

    staging = find_staging(raw)
    with hold_lock(staging.with_name(".import.lock"), busy=busy, patience=patience, on_wait=on_wait):
        restore(staging, raw=raw)
        yield


def find_staging(raw: Path) -> Path:
    """Where a source is put together before it is renamed into ``raw``: on the disk where that lies, also by a link.

    Beside ``raw``; within, where that is the top of a disk, for no rename leads from one disk to another.
    """
    place = raw.resolve()
    return (place if os.path.ismount(place) else place.parent) / ".import"


def restore(partial_root: Path, *, raw: Path) -> None:
    """Put back what an import that was killed between its two renames had set aside; drop the rest of it."""
    for aside in (partial_root / "old").glob("*"):
        settle_folder(raw / aside.name, aside=aside, trash=partial_root / "gone" / aside.name)
    shutil.rmtree(partial_root, ignore_errors=True)


def link_or_copy(source: str, target: str) -> None:
    """Link ``target`` to the file ``source``; copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
