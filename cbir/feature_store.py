"""Where the outputs of the frozen towers are kept, by content: what was computed once is not computed again.

A file holds the rows that one call computed, and their keys. A row is the same whatever it was computed with, to the
last bit, so that what is trained on rows of many files is what is trained on rows of one. The folder may be deleted;
what towers wrote that nobody has opened for a week deletes itself, for every fine-tuning makes other towers.

Shapes: B rows, T text tokens.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cbir.encoder import Features
from cbir.errors import WorkspaceError

KEYS = "keys"
USED = ".used"  # ending of an empty file, which says when the rows of its towers were last opened
UNUSED = 7 * 24 * 3600.0  # seconds after which they go
# What NumPy raises of a file that is torn, or not its own.
DAMAGE = (OSError, EOFError, ValueError, KeyError, BadZipFile)


class FeatureStore:
    """The kept outputs of one pair of towers, named by the hash ``towers``; others have the same folder."""

    def __init__(self, folder: Path, *, towers: str) -> None:
        self._folder = folder
        self._prefix = towers[:32]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self._prefix}{USED}").touch()
        _drop_unused(folder, now=time.time())
        self._places: dict[str, tuple[Path, int]] = {}
        for path in sorted(folder.glob(f"{self._prefix}-*.npz")):
            try:
                with np.load(path) as arrays:
                    self._place(arrays[KEYS], path)
            except DAMAGE as error:
                print(f"{path} is not used, what it held is computed anew: {error}", file=sys.stderr)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def read(self, keys: Sequence[str]) -> Features:
        """The rows of the given keys, all of which are here, in their order; no text is padded beyond the longest.

        Raises:
            WorkspaceError: a file was damaged where its keys are not.
        """
        places = [self._places[key] for key in keys]
        order = np.empty(len(keys), dtype=np.int64)
        parts: list[Features] = []
        done = 0
        for path in dict.fromkeys(path for path, _ in places):
            own = [position for position, (other, _) in enumerate(places) if other == path]
            rows = np.array([places[position][1] for position in own])
            parts.append(Features(**{name: array[rows] for name, array in _read_file(path).items()}))
            order[own] = np.arange(done, done + len(own))
            done += len(own)
        longest = max(int(part.token_mask_BT.sum(1).max(initial=1)) for part in parts)
        fitted = [pad_tokens(part, longest) for part in parts]
        return Features(**{name: np.concatenate([getattr(p, name) for p in fitted])[order] for name in vars(parts[0])})

    def write(self, keys: Sequence[str], block: Features) -> None:
        """Keep the rows of ``block`` under ``keys``; another process that does the same does no harm."""
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
        path = self._folder / f"{self._prefix}-{name}.npz"
        beside = path.with_name(f".{os.getpid()}-{path.name}")
        arrays: dict[str, Any] = {KEYS: np.array(keys), **vars(block)}
        try:
            np.savez(beside, **arrays)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)  # as on a full disk
        self._place(keys, path)

    def _place(self, keys: Sequence[str] | np.ndarray, path: Path) -> None:
        self._places |= {str(key): (path, row) for row, key in enumerate(keys)}


def _drop_unused(folder: Path, *, now: float) -> None:
    """Remove the rows of towers that were not opened for long; of earlier versions, that were not written for long."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in [*folder.glob("*.npz"), *folder.glob(f"*{USED}")]:
        groups[path.stem.partition("-")[0]].append(path)
    for paths in groups.values():
        with suppress(FileNotFoundError):  # another process removes them, too
            if now - max(path.stat().st_mtime for path in paths) > UNUSED:
                for path in paths:
                    path.unlink(missing_ok=True)


def pad_tokens(part: Features, length: int) -> Features:
    """The same rows with room for ``length`` tokens, at least as many as the longest text has."""
    if part.tokens_BTW.shape[1] == length:
        return part
    more = [(0, 0), (0, max(0, length - part.tokens_BTW.shape[1]))]
    return replace(
        part,
        tokens_BTW=np.pad(part.tokens_BTW[:, :length], [*more, (0, 0)]),
        token_mask_BT=np.pad(part.token_mask_BT[:, :length], more),
    )


@lru_cache(maxsize=2)
def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files if name != KEYS}
    except DAMAGE as error:
        raise WorkspaceError(f"{path} is damaged: {error}; remove it, and what it held is computed anew.") from None
