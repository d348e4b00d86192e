"""How new, changed and deleted items of the raw data reach the live table, by the live encoder, in one commit."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cbir.encoder import Encoder
from cbir.errors import IndexError_, SourceError
from cbir.features import CACHE, iterate_features
from cbir.index import Index
from cbir.ingest import TAKEN, UNREADABLE, describe_item, iterate_raw, read_item
from cbir.known_files import KnownFiles
from cbir.params import IngestParams
from cbir.params.file import load_section
from cbir.progress import follow
from cbir.records import ITEM_SCHEMA, RAW_ITEMS, cut_table
from cbir.registry import Registry, Release, open_registry
from cbir.registry.history import REFRESH
from cbir.rows import Marks, fit_rows, hash_row, mark_item
from cbir.similarity import shorten_vectors
from cbir.sources import lock_imports
from cbir.workspace import locate_index, lock_table

MOST_DELETED = 0.5
MOST_UNREADABLE = 0.2  # of the files
FILES = Path(".cbir/files.parquet")  # in the workspace
BATCH = 256  # items whose tower outputs are in memory at once
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """What a refresh did to the table of release ``version``, and its rows afterwards.

    ``embedded``: pictures that went through the towers. ``refused``: items that cannot be used, with the reason.
    ``unreadable``: items whose file is there and cannot be read, with the reason; what is live of them stays.
    ``unsearchable``: attributes with a value that has no column, or not its type, until the next retrain.
    """

    version: str
    table: str
    added: int
    changed: int
    deleted: int
    unchanged: int
    embedded: int
    rows: int
    refused: list[str]
    unreadable: list[str]
    unsearchable: list[str]


@dataclass(kw_only=True)
class Changes:
    """The raw data beside a table: rows to insert or replace, ids to delete, ids to leave."""

    added: list[Row] = field(default_factory=list)
    changed: list[Row] = field(default_factory=list)
    unchanged: set[str] = field(default_factory=set)
    deleted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def ids(self) -> set[str]:
        """Ids of the table afterwards."""
        return self.unchanged | {row["id"] for row in self.added + self.changed}


def refresh_table(workspace: Path, *, now: datetime, most_deleted: float = MOST_DELETED) -> Refresh:
    """Bring the live table in step with ``data/raw``; done again, it embeds and commits nothing.

    The pictures are decoded by the params that the release was made with. Before the commit the registry is told how
    many rows there will be, and after it the history; a refresh that was killed between is completed by the next.

    Raises:
        ReleaseError: no release is live, or the registry does not give it.
        SourceError: there is no raw data, it cannot be read, or it lacks more than the share ``most_deleted`` of the
            rows.
        IndexError_: the table is missing, or of another encoder, or another refresh does not end.
    """
    registry = open_registry(workspace)
    table = registry.get_champion().table
    with lock_table(workspace, table):
        release = registry.get_champion()
        if release.table != table:
            raise IndexError_(f"Release {release.version} went live meanwhile; run `cbir-ops refresh` again.")
        index = Index.open(uri=locate_index(workspace), table=table)
        params = load_section(registry.fetch_evidence(release, "params.yaml"), "ingest", IngestParams)
        marks = index.read_marks()
        with lock_imports(workspace / "data/raw"):
            changes = find_changes(workspace / "data/raw", marks, params=params, files=KnownFiles(workspace / FILES))
        _check_deleted(changes, marks, most_deleted=most_deleted)
        rows, embedded = pa.table({}), 0
        unsearchable: list[str] = []
        if changes.added or changes.changed:
            encoder = registry.download_encoder(release)
            index.add_marks()
            rows, embedded, unsearchable = _make_rows(
                changes, index, marks, encoder=encoder, cache=workspace / CACHE, now=now
            )
        if rows.num_rows or changes.deleted:
            _commit(index, rows, changes, registry=registry, release=release, now=now)
        _write_down(registry, release, index)
        index.tidy()
    return Refresh(
        version=release.version,
        table=table,
        added=len(changes.added),
        changed=len(changes.changed),
        deleted=len(changes.deleted),
        unchanged=len(changes.unchanged),
        embedded=embedded,
        rows=index.rows,
        refused=changes.refused,
        unreadable=changes.unreadable,
        unsearchable=unsearchable,
    )


def find_changes(raw: Path, marks: dict[str, Marks], *, params: IngestParams, files: KnownFiles) -> Changes:
    """Compare the raw data with the marks of a table's rows; only what is new or changed is decoded.

    ``files`` tells which of them have not changed since an earlier comparison, without opening them. An item is gone
    where its file is, or is no picture; where a disk or a mount does not give the file, its row stays.

    Raises:
        SourceError: there is no source, no usable picture in any, or much of it cannot be read.
    """
    changes = Changes()
    fresh: list[tuple[Path, Row]] = []
    for entry in follow(_iterate_sources(raw), total=len(marks), description="compare"):
        row = _find_known(*entry, marks=marks, files=files)
        if row is None:
            fresh.append(entry)
        elif row["id"] in changes.unchanged:
            changes.refused.append(f"{_name_item(*entry)}: {TAKEN}")
        else:
            changes.unchanged.add(row["id"])
    files.save()
    listed = len(fresh) + len(changes.unchanged)
    taken = _sort_fresh(fresh, _read_items(fresh, params=params), changes, marks=marks)
    if len(changes.unreadable) > MOST_UNREADABLE * listed:
        raise SourceError(
            f"{len(changes.unreadable)} of {listed} files cannot be read; the first: {changes.unreadable[0]}. Mend the "
            "disk, mount or permissions, then run `cbir-ops refresh` again."
        )
    if not taken:
        raise SourceError(f"None of {len(fresh)} pictures can be used; the first: {changes.refused[0]}.")
    changes.deleted = sorted(set(marks) - taken)
    return changes


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


def _sort_fresh(
    fresh: list[tuple[Path, Row]], rows: list[Row], changes: Changes, *, marks: dict[str, Marks]
) -> set[str]:
    """Put every item that was read where it belongs in ``changes``; return the ids that the table is to hold."""
    taken = set(changes.unchanged)
    for entry, row in zip(fresh, rows, strict=True):
        reason = row.get("reason", "")
        if reason.startswith(UNREADABLE):
            changes.unreadable.append(f"{_name_item(*entry)}: {reason}")
            if row["id"] in marks and row["id"] not in taken:
                taken.add(row["id"])
                changes.unchanged.add(row["id"])
        elif reason := reason or (TAKEN if row["id"] in taken else ""):
            changes.refused.append(f"{_name_item(*entry)}: {reason}")
        else:
            taken.add(row["id"])
            (changes.changed if row["id"] in marks else changes.added).append(row)
    return taken


def _name_item(folder: Path, item: Row) -> str:
    """Its id, and the file as it was called before an import, where it came by one."""
    return f"{item['id']} ({item['attributes'].get('file') or folder.name + '/' + item['file_name']})"


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


def _read_items(entries: list[tuple[Path, Row]], *, params: IngestParams) -> list[Row]:
    if not entries:
        return []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda entry: read_item(*entry, params=params), entries)
        return list(follow(done, total=len(entries), description="read"))


def _check_deleted(changes: Changes, marks: dict[str, Marks], *, most_deleted: float) -> None:
    if len(changes.deleted) > most_deleted * len(marks):
        raise SourceError(
            f"data/raw lacks {len(changes.deleted)} of the {len(marks)} items that are live; run `dvc checkout` where "
            "the data are not all there, or allow it with --most-deleted 1."
        )


def _make_rows(
    changes: Changes, index: Index, marks: dict[str, Marks], *, encoder: Path, cache: Path, now: datetime
) -> tuple[pa.Table, int, list[str]]:
    """Rows for the table, how many were embedded for them, and which attributes do not fit."""
    items = changes.added + changes.changed
    kept = index.read_vectors([row["id"] for row in changes.changed if _looks_the_same(row, marks)])
    fresh = [row for row in items if row["id"] not in kept]
    vectors = kept | dict(zip((row["id"] for row in fresh), _embed(fresh, index, encoder, cache), strict=True))
    vector_ND = np.stack([vectors[row["id"]] for row in items]).astype(np.float32)
    rows, unsearchable = fit_rows(
        pa.Table.from_pylist(items, schema=ITEM_SCHEMA),
        pa.FixedSizeListArray.from_arrays(pa.array(vector_ND.ravel()), vector_ND.shape[1]),
        schema=index.schema,
        refreshed_at=now.isoformat(),
    )
    return rows, len(fresh), unsearchable


def _looks_the_same(row: Row, marks: dict[str, Marks]) -> bool:
    """Whether the encoder would read what it has read before: a price or a label has no part in the vector."""
    mark, known = mark_item(row), marks[row["id"]]
    return (mark.sha256, mark.text_hash) == (known.sha256, known.text_hash)


def _embed(rows: list[Row], index: Index, folder: Path, cache: Path) -> list[np.ndarray]:
    """Vectors as the stage ``embed`` makes them."""
    encoder = Encoder.load(folder)
    if encoder.fingerprint != index.fingerprint:
        raise IndexError_(
            f"The live table is of encoder {index.fingerprint}, the release of {encoder.fingerprint}; run "
            "`cbir-ops retrain` to publish it again."
        )
    if not rows:
        return []
    blocks = cut_table(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), BATCH)
    parts = iterate_features(blocks, count=len(blocks), towers_folder=folder, cache=cache, towers=encoder.towers)
    vector_ND = np.concatenate([encoder.fuse(features) for features in parts])
    return list(shorten_vectors(vector_ND, index.dimensions, encoder.similarity))


def _commit(
    index: Index, rows: pa.Table, changes: Changes, *, registry: Registry, release: Release, now: datetime
) -> None:
    """One commit, taken back where the table is then not what was wanted.

    Raises:
        IndexError_: so it was.
    """
    before = index.version
    facts = {"before": index.rows, "rows": len(changes.ids), "version": before, "at": now.isoformat()}
    counts = {name: len(getattr(changes, name)) for name in ("added", "changed", "deleted")}
    registry.record_refresh(release, json.dumps(facts | counts))
    index.merge(rows, delete=changes.deleted)
    if index.rows != len(changes.ids) or index.read_ids() != changes.ids:
        got = index.rows
        index.restore(before)
        raise IndexError_(
            f"Table {release.table} would have {got} rows for {len(changes.ids)} items, and was left as it was; move "
            "it away, then run `cbir-ops retrain`."
        )


def _write_down(registry: Registry, release: Release, index: Index) -> None:
    """Append the last refresh to the history, where it is not there: it may have been killed after its commit."""
    text = registry.get_version(release.version).refresh
    if text is None:
        return
    facts = json.loads(text)
    known = {entry["at"] for entry in registry.read_log() if entry["action"] == REFRESH}
    if index.version > facts["version"] and index.rows == facts["rows"] and facts["at"] not in known:
        why = f"{facts['added']} added, {facts['changed']} changed, {facts['deleted']} deleted"
        registry.append_log(release, action=REFRESH, reason=why, now=datetime.fromisoformat(facts["at"]))
