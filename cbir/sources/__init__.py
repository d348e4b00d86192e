"""Which layout a source has, and how it is copied into the raw folder."""

from __future__ import annotations

import filecmp
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from cbir.errors import SourceError
from cbir.records import RAW_ITEMS, RAW_RELATIVE, RawItem, RelativeCaption, exchange_folder
from cbir.sources import coco, folders, openmoji, triplets, webdataset
from cbir.sources.exchange import PATIENCE, find_staging, link_or_copy, lock_imports, restore
from cbir.sources.files import name_unread
from cbir.sources.log import ImportLog
from cbir.sources.merge import ImportReport, merge_source
from cbir.sources.metadata import METADATA

__all__ = ["ImportReport", "import_source", "lock_imports"]


def import_source(source: str, *, name: str | None, raw: Path, patience: float = PATIENCE) -> ImportReport:
    """Copy ``source`` (``openmoji``, or a folder) into ``raw/NAME``; what is there already is not added again.

    The folder is written beside and renamed, so that a killed or failed import leaves the earlier state.
    Of two imports at once, the second waits for the first, ``patience`` seconds at most.

    Raises:
        SourceError: the source is missing, empty or malformed, or another import did not end in time.
    """
    name, raw = _choose_name(source, name), raw.resolve()
    if Path(source).resolve().is_relative_to(raw):
        raise SourceError(f"{source} is where imported pictures lie; give the folder that they came from.")
    with lock_imports(raw, patience=patience):
        return _import_alone(source, name=name, raw=raw)


def _import_alone(source: str, *, name: str, raw: Path) -> ImportReport:
    partial_root = find_staging(raw)
    partial, final = partial_root / "new" / name, raw / name
    partial.mkdir(parents=True)
    try:
        if final.exists():
            shutil.copytree(final, partial, dirs_exist_ok=True, copy_function=link_or_copy)
        log = ImportLog()
        found, relative = _read_source(source, log=log)
        report = merge_source(found, relative, name=name, folder=partial, log=log)
        same = all(_is_same(partial / file, final / file) for file in (RAW_ITEMS, RAW_RELATIVE))
        if not same or report.restored or report.deleted:
            exchange_folder(partial, final, aside=partial_root / "old" / name)
        return report
    finally:
        restore(partial_root, raw=raw)


def _is_same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return filecmp.cmp(one, other, shallow=False)
    return not one.exists() and not other.exists()


def _choose_name(source: str, name: str | None) -> str:
    chosen = name or re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).name or source).strip("-").lower()
    if not re.fullmatch(r"[A-Za-z0-9_-]+", chosen):
        raise SourceError(f"{chosen!r} is no name for a source; give --name with letters, digits, - and _.")
    return chosen


def _read_source(source: str, *, log: ImportLog) -> tuple[Iterator[tuple[RawItem, bytes]], list[RelativeCaption]]:
    """Metadata beats triplets, triplets beat annotations, annotations beat shards, shards beat loose pictures."""
    if source == "openmoji":
        return openmoji.read_items(), openmoji.read_relative()
    folder = Path(source)
    if any((folder / name).exists() for name in METADATA):
        return folders.read_items(folder, log=log), []
    if captions := triplets.find_captions(folder):
        return triplets.read_items(folder, captions, log=log), triplets.read_relative(captions)
    annotations = coco.find_annotations(folder)
    if not annotations and (shards := webdataset.find_shards(folder)):
        return webdataset.read_items(shards, log=log), []
    name_unread(folder, read=annotations, log=log)
    if annotations:
        return coco.read_items(folder, annotations, log=log), []
    return folders.read_items(folder, log=log), []
