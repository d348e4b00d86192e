"""Which layout a source has, and how it is copied into the raw folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import track

from cbir.errors import SourceError
from cbir.records import RAW_ITEMS, RAW_RELATIVE, RawItem, RelativeCaption, read_jsonl, write_jsonl
from cbir.sources import coco, folders, openmoji, triplets, webdataset

PATIENCE = 3600.0  # seconds


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did: items added and already there, and those left out with a reason each."""

    name: str
    added: int
    unchanged: int
    skipped: list[str]


def import_source(source: str, *, name: str | None, raw: Path, patience: float = PATIENCE) -> ImportReport:
    """Copy ``source`` (``openmoji``, or a folder) into ``raw/NAME``; what is there already is not added again.

    The folder is written beside and renamed, so that a killed or failed import leaves the earlier state.
    Of two imports at once, the second waits for the first, ``patience`` seconds at most.

    Raises:
        SourceError: the source is missing, empty or malformed, or another import did not end in time.
    """
    name = _choose_name(source, name)
    with lock_imports(raw, patience=patience):
        return _import_alone(source, name=name, raw=raw)


@contextmanager
def lock_imports(raw: Path, *, patience: float = PATIENCE) -> Iterator[None]:
    """Keep imports into ``raw`` out, with what a killed one had set aside put back.

    The operating system frees the lock of a killed process.

    Raises:
        SourceError: an import did not end within ``patience`` seconds.
    """
    raw.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(raw.parent / ".import.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another import into {raw} to end", file=sys.stderr)
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            raise SourceError(
                f"Another import into {raw} still runs after {patience:.0f} s; wait for it to end, then import again."
            ) from None
    try:
        _restore(raw.parent / ".import", raw=raw)
        yield
    finally:
        lock.release()


def _import_alone(source: str, *, name: str, raw: Path) -> ImportReport:
    partial_root = raw.parent / ".import"
    partial, final = partial_root / "new" / name, raw / name
    partial.mkdir(parents=True)
    try:
        if final.exists():
            shutil.copytree(final, partial, dirs_exist_ok=True, copy_function=os.link)
        report = _fill(source, name=name, folder=partial)
        if report.added:
            _exchange(partial, final, aside=partial_root / "old" / name)
        return report
    finally:
        _restore(partial_root, raw=raw)


def _exchange(partial: Path, final: Path, *, aside: Path) -> None:
    """Put ``partial`` in the place of ``final``, which stays whole at ``aside`` until then."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.replace(final, aside)
    os.replace(partial, final)


def _restore(partial_root: Path, *, raw: Path) -> None:
    """Put back what an import that was killed between its two renames had set aside; drop the rest of it."""
    for aside in (partial_root / "old").glob("*"):
        if not (raw / aside.name).exists():
            os.replace(aside, raw / aside.name)
    shutil.rmtree(partial_root, ignore_errors=True)


def _choose_name(source: str, name: str | None) -> str:
    chosen = name or re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).name or source).strip("-").lower()
    if not re.fullmatch(r"[A-Za-z0-9_-]+", chosen):
        raise SourceError(f"{chosen!r} is no name for a source; give --name with letters, digits, - and _.")
    return chosen


def _fill(source: str, *, name: str, folder: Path) -> ImportReport:
    known = {row["id"]: row for row in read_jsonl(folder / RAW_ITEMS)} if (folder / RAW_ITEMS).exists() else {}
    skipped: list[str] = []
    if source == "openmoji":
        found, relative = openmoji.read_items(), openmoji.read_relative()
    else:
        found, relative = _read_path(Path(source), skipped=skipped)
    rows = dict(known)
    added = 0
    for item, data in track(found, description=f"import {name}", console=Console(stderr=True)):
        placed = _place(item, data, name=name, folder=folder)
        row = asdict(placed)
        if rows.get(placed.id) != row:
            added += 1
        rows[placed.id] = row
    if not rows:
        raise SourceError(f"{source} holds no pictures that can be imported; see the layouts in docs/data.md.")
    write_jsonl(folder / RAW_ITEMS, (rows[key] for key in sorted(rows)))
    if relative:
        write_jsonl(folder / RAW_RELATIVE, _relate(relative, name=name, known=rows.keys()))
    return ImportReport(name=name, added=added, unchanged=len(rows) - added, skipped=skipped)


def _read_path(source: Path, *, skipped: list[str]) -> tuple[Iterator[tuple[RawItem, bytes]], list[RelativeCaption]]:
    """Metadata beats triplets, triplets beat annotations, annotations beat shards, shards beat loose pictures."""
    if not any((source / name).exists() for name in folders.METADATA):
        if captions := triplets.find_captions(source):
            return triplets.read_items(source, captions, skipped=skipped), triplets.read_relative(captions)
        if annotations := coco.find_annotations(source):
            return coco.read_items(source, annotations, skipped=skipped), []
        if shards := webdataset.find_shards(source):
            return webdataset.read_items(shards, skipped=skipped), []
    return folders.read_items(source, skipped=skipped), []


def _place(item: RawItem, data: bytes, *, name: str, folder: Path) -> RawItem:
    digest = hashlib.sha256(data).hexdigest()[:24]
    target = folder / "images" / digest[:2] / f"{digest}{Path(item.file_name).suffix.lower()}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return replace(
        item,
        id=f"{name}/{item.id}",
        group=f"{name}/{item.group}" if item.group else None,
        file_name=target.relative_to(folder).as_posix(),
        attributes=json.loads(json.dumps(item.attributes | {"file": item.file_name}, default=str)),
    )


def _relate(relative: Iterable[RelativeCaption], *, name: str, known: Iterable[str]) -> Iterator[dict[str, str]]:
    ids = set(known)
    for pair in relative:
        ends = f"{name}/{pair.reference_id}", f"{name}/{pair.target_id}"
        if ids.issuperset(ends):
            yield {"reference_id": ends[0], "caption": pair.caption, "target_id": ends[1]}
