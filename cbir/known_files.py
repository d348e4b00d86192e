"""SHA-256 of files that were read before, told by what the file system says of them, as git's index tells.

A file whose inode, size and times are the same has not changed; one that was written so shortly before it was read
that the clock could not tell a later change is read again ("racy git", Documentation/technical/racy-git.txt).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cbir.records import write_table

SETTLED = 2_000_000_000  # nanoseconds: the coarsest clock of a file system, FAT's
_SCHEMA = pa.schema([("file", pa.string()), ("status", pa.string()), ("sha256", pa.string())])


class KnownFiles:
    """Hashes of files, kept at ``path``; ``opened`` counts those that had to be read."""

    def __init__(self, path: Path) -> None:
        self.opened = 0
        self._path = path
        self._before = _read(path)
        self._now: dict[str, tuple[str, str]] = {}

    def hash(self, file: str) -> str:
        """Hexadecimal SHA-256 of its bytes.

        Raises:
            OSError: it is missing or cannot be read.
        """
        read_at = time.time_ns()
        found = os.stat(file)
        status = f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        entry = self._before.get(file)
        if entry is None or entry[0] != status:
            self.opened += 1
            with open(file, "rb") as data:
                entry = status, hashlib.sha256(data.read()).hexdigest()
        if found.st_ctime_ns < read_at - SETTLED:
            self._now[file] = entry
        return entry[1]

    def save(self) -> None:
        """Keep what was asked for since, where the disk has room; what was not is forgotten."""
        if self._now == self._before:
            return
        status, hashes = zip(*self._now.values(), strict=True) if self._now else ((), ())
        with contextlib.suppress(OSError):  # without it the next one only takes longer
            write_table(self._path, pa.table([list(self._now), status, hashes], schema=_SCHEMA))


def _read(path: Path) -> dict[str, tuple[str, str]]:
    """What was kept; nothing where it cannot be read, as it can be made again."""
    try:
        file, status, sha256 = (column.to_pylist() for column in pq.read_table(path, schema=_SCHEMA).columns)
    except (OSError, pa.ArrowException):
        return {}
    return dict(zip(file, zip(status, sha256, strict=True), strict=True))
