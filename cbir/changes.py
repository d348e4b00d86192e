"""What differs between the raw data and the live table: items that are new or changed, and those that are gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from cbir.errors import SourceError
from cbir.ingest import TAKEN, UNREADABLE, describe_item, iterate_raw, read_ahead
from cbir.known_files import KnownFiles
from cbir.params import IngestParams
from cbir.progress import follow
from cbir.records import BLOCK, ITEM_SCHEMA, RAW_ITEMS, write_table
from cbir.rows import Marks, hash_row, mark_item

MOST_UNREADABLE = 0.2  # of the files
Row = dict[str, Any]
Entry = tuple[Path, Row]  # the folder of a source, and an item as it lists it


@dataclass(kw_only=True)
class Changes:
    """The raw data beside a table: ids to insert, to replace, to delete and to leave.

    ``alike``: those of ``changed`` of which the encoder would read what it has read before.
    """

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)
    unchanged: set[str] = field(default_factory=set)
    deleted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def ids(self) -> set[str]:
        """Ids of the table afterwards."""
        return self.unchanged.union(self.added, self.changed)


def find_changes(
    raw: Path, marks: dict[str, Marks], *, params: IngestParams, files: KnownFiles, fresh: Path
) -> Changes:
    """Compare the raw data with the marks of a table's rows; only what is new or changed is decoded.

    It is written into the folder ``fresh`` as `ingest` writes items, for its pictures need not fit in memory. ``files``
    tells which files have not changed since an earlier comparison, without opening them. An item is gone where its file
    is, or is no picture; where a disk or a mount does not give the file, its row stays.

    Raises:
        SourceError: there is no source, no usable picture in any, or much of it cannot be read.
    """
    changes = Changes()
    entries = _compare_sources(raw, marks, changes, files=files)
    files.save()
    listed = len(entries) + len(changes.unchanged)
    _write_fresh(entries, changes, fresh, marks=marks, params=params)
    if len(changes.unreadable) > MOST_UNREADABLE * listed:
        raise SourceError(
            f"{len(changes.unreadable)} of {listed} files cannot be read; the first: {changes.unreadable[0]}. Mend the "
            "disk, mount or permissions, then run `cbir-ops refresh` again."
        )
    ids = changes.ids
    if not ids:
        raise SourceError(f"None of {len(entries)} pictures can be used; the first: {changes.refused[0]}.")
    changes.deleted = sorted(set(marks) - ids)
    return changes


def check_deleted(changes: Changes, marks: dict[str, Marks], *, most_deleted: float) -> None:
    """Refuse to delete more than the share ``most_deleted`` of a table.

    Raises:
        SourceError: so much is gone.
    """
    if len(changes.deleted) > most_deleted * len(marks):
        raise SourceError(
            f"data/raw lacks {len(changes.deleted)} of the {len(marks)} items that are live; run `dvc checkout` where "
            "the data are not all there, or allow it with --most-deleted 1."
        )


def _compare_sources(raw: Path, marks: dict[str, Marks], changes: Changes, *, files: KnownFiles) -> list[Entry]:
    """Note what is unchanged; return the items that have to be read."""
    entries: list[Entry] = []
    for entry in follow(_iterate_sources(raw), total=len(marks), description="compare"):
        row = _find_known(*entry, marks=marks, files=files)
        if row is None:
            entries.append(entry)
        elif row["id"] in changes.unchanged:
            changes.refused.append(f"{_name_item(*entry)}: {TAKEN}")
        else:
            changes.unchanged.add(row["id"])
    return entries


def _iterate_sources(raw: Path) -> Iterator[tuple[Path, Row]]:
    """``iterate_raw``, where a source that cannot be listed is not taken for one that is gone."""
    try:
        for folder in raw.glob("*"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                (folder / RAW_ITEMS).stat()
        yield from iterate_raw(raw)
    except OSError as error:
        raise SourceError(
            f"{error.filename or raw} cannot be read ({error.strerror}); mend the disk, mount or permissions, then "
            "run `cbir-ops refresh` again."
        ) from None


def _find_known(folder: Path, item: Row, *, marks: dict[str, Marks], files: KnownFiles) -> Row | None:
    """The item without its picture, where the table's row is of it as it is; else None, and it has to be read."""
    mark = marks.get(item["id"])
    if mark is None:
        return None
    row = describe_item(folder, item)
    try:
        row["sha256"] = files.hash(f"{folder}/{item['file_name']}")
    except OSError:
        return None
    return row if mark.row_hash == hash_row(row) else None


def _write_fresh(
    entries: list[Entry], changes: Changes, fresh: Path, *, marks: dict[str, Marks], params: IngestParams
) -> None:
    """Read the items, put each where it belongs in ``changes``, and write those that can be used."""
    taken = set(changes.unchanged)
    rows = follow(read_ahead(entries, params=params), total=len(entries), description="read")
    used = (
        row
        for entry, row in zip(entries, rows, strict=True)
        if _sort_item(entry, row, changes, marks=marks, taken=taken)
    )
    shard = 0
    while block := list(islice(used, BLOCK)):
        write_table(fresh / f"items-{shard:05d}.parquet", pa.Table.from_pylist(block, schema=ITEM_SCHEMA))
        shard += 1


def _sort_item(entry: Entry, row: Row, changes: Changes, *, marks: dict[str, Marks], taken: set[str]) -> bool:
    """Put an item that was read where it belongs; return whether its row is to be written.

    ``taken``: the ids that the table is to hold so far.
    """
    reason, known = row.get("reason", ""), marks.get(row["id"])
    if reason.startswith(UNREADABLE):
        changes.unreadable.append(f"{_name_item(*entry)}: {reason}")
        if known and row["id"] not in taken:
            taken.add(row["id"])
            changes.unchanged.add(row["id"])
        return False
    if reason := reason or (TAKEN if row["id"] in taken else ""):
        changes.refused.append(f"{_name_item(*entry)}: {reason}")
        return False
    taken.add(row["id"])
    (changes.changed if known else changes.added).append(row["id"])
    if known and _looks_the_same(row, known):
        changes.alike.append(row["id"])
    return True


def _looks_the_same(row: Row, known: Marks) -> bool:
    """Whether the encoder would read what it has read before: a price or a label has no part in the vector."""
    mark = mark_item(row)
    return (mark.sha256, mark.text_hash) == (known.sha256, known.text_hash)


def _name_item(folder: Path, item: Row) -> str:
    """Its id, and the file as it was called before an import, where it came by one."""
    return f"{item['id']} ({item['attributes'].get('file') or folder.name + '/' + item['file_name']})"
