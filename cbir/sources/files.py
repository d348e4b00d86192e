"""Which files a source holds, how a picture's are named and read, and what is said of those that are not."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from pathlib import Path

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
LISTS = {".json", ".jsonl", ".csv", ".tsv", ".parquet"}
SHOWN = 5


def list_files(folder: Path, *, skipped: list[str]) -> list[Path]:
    """Every file below ``folder``, sorted; a folder that cannot be read is named in ``skipped``."""

    def report(error: OSError) -> None:
        skipped.append(f"{error.filename}: the folder cannot be read: {error.strerror}")

    return sorted(Path(place) / name for place, _, names in os.walk(folder, onerror=report) for name in names)


def name_item(file_name: str, seen: Container[str]) -> str:
    """Id of a picture by its file's name: without the ending, unless another one is called so and they differ by it."""
    short = Path(file_name).with_suffix("").as_posix()
    return file_name if short in seen else short


def read_picture(path: Path, *, name: str, skipped: list[str]) -> bytes | None:
    """The bytes of a picture; None where it cannot be read, and ``name`` is in ``skipped`` with the reason."""
    if not os.path.isfile(path):  # not `is_file`, which raises where the folder may not be entered
        skipped.append(f"{name}: is not there, or is no plain file")
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        skipped.append(f"{name}: the file cannot be read: {error.strerror}")
        return None


def name_unread(folder: Path, *, read: Sequence[Path], skipped: list[str]) -> None:
    """Name in ``skipped`` the lists beside the pictures that no layout knows: someone meant them to be read."""
    beside = sorted([*folder.glob("*.*"), *folder.glob("annotations/*.*")])
    left = [path for path in beside if path.suffix.lower() in LISTS and path not in read]
    if left:
        shown = ", ".join(path.relative_to(folder).as_posix() for path in left[:SHOWN])
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        skipped.insert(0, f"{shown}{more}: not read, for no layout of docs/data.md is written so")
