"""Which files a source holds, how a picture's are named and read, and what is said of those that are not."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from pathlib import Path

from cbir.sources.log import ImportLog

PICTURES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"}
FOREIGN = {".heic", ".heif", ".jxl", ".svg", ".psd", ".raw", ".dng", ".cr2", ".nef", ".arw"}
LISTS = {".json", ".jsonl", ".csv", ".tsv", ".parquet"}
SHOWN = 5


def list_files(folder: Path, *, log: ImportLog) -> list[Path]:
    """Every file below ``folder`` that is not hidden, sorted; ``log`` names what someone may miss.

    Hidden are names that begin with a dot, and what macOS adds to archives.
    """

    def report(error: OSError) -> None:
        log.remarks.append(f"{error.filename}: the folder cannot be read: {error.strerror}")

    files, hidden = list[Path](), list[Path]()
    for place, folders, names in os.walk(folder, onerror=report):
        for name in sorted(folders):
            if _is_hidden(name):
                folders.remove(name)
                hidden.append(Path(place, name))
            elif Path(place, name).is_symlink():
                log.remarks.append(
                    f"{Path(place, name)}: a link to a folder is not followed; import that folder by itself"
                )
        for name in names:
            (hidden if _is_hidden(name) else files).append(Path(place, name))
    unseen = [path.name for path in hidden if path.is_dir() or path.suffix.lower() in PICTURES]
    if unseen:
        log.remarks.append(f"{shorten(unseen)}: hidden, and not looked at")
    foreign = [path for path in files if path.suffix.lower() in FOREIGN]
    log.skipped.extend(f"{path.relative_to(folder)}: convert it to PNG or JPEG" for path in foreign)
    return sorted(files)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def shorten(names: Sequence[str]) -> str:
    """The first of ``names``, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def name_item(file_name: str, seen: Container[str]) -> str:
    """Id of a picture by its file's name: without the ending, unless another one is called so and they differ by it."""
    short = Path(file_name).with_suffix("").as_posix()
    return file_name if short in seen else short


def read_file(path: Path, *, name: str, told: list[str]) -> bytes | None:
    """The bytes of a file; None where it cannot be read, and ``told`` says of ``name`` why."""
    if not os.path.isfile(path):  # not `is_file`, which raises where the folder may not be entered
        told.append(f"{name}: is not there, or is no plain file")
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        told.append(f"{name}: the file cannot be read: {error.strerror}")
        return None


def name_unread(folder: Path, *, read: Sequence[Path], log: ImportLog) -> None:
    """Name in ``log`` the lists beside the pictures that no layout knows: someone meant them to be read."""
    beside = sorted([*folder.glob("*.*"), *folder.glob("annotations/*.*")])
    left = [path for path in beside if path.suffix.lower() in LISTS and path not in read]
    if left:
        shown = shorten([path.relative_to(folder).as_posix() for path in left])
        log.remarks.append(f"{shown}: not read, for no layout of docs/data.md is written so")
