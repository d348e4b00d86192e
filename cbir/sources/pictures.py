"""Which files of a source no row names, and how they go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

IMAGES = "images"  # folder of a source in which an import places files


def delete_unnamed(folder: Path, *, named: Iterable[str], gone: Iterable[str] = ()) -> int:
    """Delete every file under ``images/`` of ``folder`` that no row names, and those of ``gone`` in all of ``folder``.

    A name that was written by hand may lead to a file in another way than its path says: by a link, or in letters that
    the disk does not tell apart. What is the same file as a named one stays.

    Returns:
        How many were deleted.
    """
    names = {_join(folder, name) for name in named}
    spare = {*_list_images(folder), *(_join(folder, name) for name in gone)} - names
    kept = {_identify(path) for path in names} - {None} if spare else set()
    deleted = [path for path in spare if _is_file_in(folder, path) and _identify(path) not in kept]
    for path in deleted:
        os.unlink(path)
    for place, _, _ in os.walk(folder / IMAGES, topdown=False):
        with suppress(OSError):  # it is not empty
            os.rmdir(place)
    return len(deleted)


def _list_images(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder / IMAGES):
        yield from (_join(place, name) for name in names)


def _join(folder: Path | str, name: str) -> str:
    return os.path.normpath(os.path.join(folder, name))


def _identify(path: str) -> tuple[int, int] | None:
    """What two ways to one file have in common; None where there is no file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _is_file_in(folder: Path, path: str) -> bool:
    """A link counts as a file where it lies itself, wherever it leads."""
    there = os.path.isfile(path) or os.path.islink(path)
    return there and Path(path).parent.resolve().is_relative_to(folder.resolve())
