"""How the tables of releases are published, told apart, and dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pyarrow.compute as pc

from cbir.errors import IndexError_
from cbir.index import FINGERPRINT, REGISTRY, SIMILARITY, Index, is_missing
from cbir.records import BLOCK, ITEM_SCHEMA, iterate_items, read_items, read_json, read_table
from cbir.rows import HASHED, Marks, build_rows, find_types, mark_item

RELEASE_TABLE = re.compile(r"release_v(\d+)")


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """``size``: bytes; ``written``: when the last of it was."""

    size: int
    written: datetime


def publish_table(*, uri: str, table: str, ingested: Path, embedded: Path, registry: str = "") -> int:
    """Write the vectors and rows of a release as ``table``; a table of that name is never overwritten.

    LanceDB commits a table at once, so one that is there is whole; the release key covers its rows. Where it was
    refreshed since with other items, it gets the release's own rows again, in one commit. ``registry``: the mark of the
    one that knows the release, without which no clean-up takes the table for its own.

    Returns:
        The number of rows.

    Raises:
        IndexError_: a table of this name is there and is not this release's.
    """
    facts = _read_facts(embedded)
    if _is_there(uri=uri, table=table):
        there = Index.open(uri=uri, table=table)
        if not holds_release(uri=uri, table=table, ingested=ingested, embedded=embedded):
            _restore_rows(there, facts, name=table, ingested=ingested, embedded=embedded)
        there.add_missing_index()
        return facts["rows"]
    schema, blocks = _build_blocks(ingested, embedded)
    marks = {FINGERPRINT: facts["fingerprint"], SIMILARITY: facts["similarity"], REGISTRY: registry}
    schema = schema.with_metadata({name: value.encode() for name, value in marks.items()})
    batches = (batch for rows in blocks for batch in rows.cast(schema).to_batches())
    reader = pa.RecordBatchReader.from_batches(schema, batches)
    written = Index(lancedb.connect(uri).create_table(table, reader))
    written.add_missing_index()
    return written.rows


def holds_release(*, uri: str, table: str, ingested: Path, embedded: Path) -> bool:
    """Whether ``table`` is there, with the rows of ``ingested`` and vectors of the encoder of ``embedded``.

    Of a table of before there were hashes the rows are only counted.
    """
    facts = _read_facts(embedded)
    try:
        index = Index.open(uri=uri, table=table)
    except IndexError_:
        return False
    if (index.fingerprint, index.rows) != (facts["fingerprint"], facts["rows"]):
        return False
    if not index.marked:
        return True
    return index.read_marks() == _read_marks(ingested)


def _restore_rows(index: Index, facts: dict[str, Any], *, name: str, ingested: Path, embedded: Path) -> None:
    """Undo what refreshes did to a release's table: a reader sees it before or after."""
    if index.fingerprint != facts["fingerprint"] or not index.marked:
        raise IndexError_(f"Table {name} is of another release; move it away, then run `cbir-ops retrain`.")
    old, new = index.read_marks(), _read_marks(ingested)
    changed = {id_ for id_, mark in new.items() if id_ not in old or old[id_].row_hash != mark.row_hash}
    schema, blocks = _build_blocks(ingested, embedded, ids=changed)
    rows = pa.concat_tables([schema.empty_table(), *blocks])
    kept = [column for column in schema.names if column in index.schema.names]
    index.merge(rows.select(kept), delete=sorted(set(old) - set(new)))


def list_releases(uri: str) -> dict[str, str]:
    """The tables of releases in ``uri``, by the version of their release; tables of others are left out."""
    if is_missing(uri):
        return {}
    found = [(table, RELEASE_TABLE.fullmatch(table)) for table in _list_tables(lancedb.connect(uri))]
    return {match[1]: table for table, match in found if match}


def read_registry(*, uri: str, table: str) -> str:
    """The mark of the registry whose release ``table`` is; empty where it has none, or was never committed."""
    try:
        return Index.open(uri=uri, table=table).registry
    except IndexError_:
        return ""


def describe_table(*, uri: str, table: str) -> TableFacts:
    """How large and how old ``table`` is; a table that a killed writer left half can be described, too."""
    folder = Path(uri) / f"{table}.lance"
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    if files:
        last = max(file.st_mtime for file in files)
        return TableFacts(size=sum(file.st_size for file in files), written=datetime.fromtimestamp(last, UTC))
    opened: Any = lancedb.connect(uri).open_table(table)
    written = max(version["timestamp"] for version in opened.list_versions()).astimezone(UTC)
    return TableFacts(size=int(opened.stats()["total_bytes"]), written=written)


def drop_table(*, uri: str, table: str) -> None:
    """Delete ``table``; done again, nothing is there to delete."""
    database = lancedb.connect(uri)
    if table in _list_tables(database):
        database.drop_table(table)


def _is_there(*, uri: str, table: str) -> bool:
    """Whether ``table`` was ever committed; the folder of a writer that was killed before is listed, too."""
    try:
        Index.open(uri=uri, table=table)
    except IndexError_:
        return False
    return True


def _read_facts(embedded: Path) -> dict[str, Any]:
    return read_json(embedded / "embedded.json")


def _list_tables(database: Any) -> list[str]:
    return list(database.table_names(limit=10_000))


def _read_marks(ingested: Path) -> dict[str, Marks]:
    items = read_items(ingested, columns=list(HASHED)).to_pylist()
    return {item["id"]: mark_item(item) for item in items}


def _build_blocks(
    ingested: Path, embedded: Path, *, ids: set[str] | None = None
) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """The schema of a release's rows, and the rows block by block: all, or those of ``ids``."""
    vectors = read_table(embedded / "embeddings.parquet", made_by="embed")
    items = read_items(ingested, columns=["id", "attributes"])
    assert vectors["id"].to_pylist() == items["id"].to_pylist(), "rows in are not vectors out"
    types = find_types(text.as_py() for text in items["attributes"])
    none = build_rows(ITEM_SCHEMA.empty_table(), vectors["vector"].slice(0, 0), types=types, refreshed_at=None)
    wanted = None if ids is None else pa.array(ids, pa.string())
    return none.schema, _iterate_rows(ingested, vectors, types=types, ids=wanted)


def _iterate_rows(
    ingested: Path, vectors: pa.Table, *, types: dict[str, pa.DataType], ids: pa.Array | None
) -> Iterator[pa.Table]:
    start = 0
    for items in iterate_items(ingested, columns=ITEM_SCHEMA.names, rows=BLOCK):
        part = vectors["vector"].slice(start, items.num_rows)
        start += items.num_rows
        if ids is not None:
            wanted = pc.is_in(items["id"], ids)
            items, part = items.filter(wanted), part.filter(wanted)
        if items.num_rows:
            yield build_rows(items, part, types=types, refreshed_at=None)
