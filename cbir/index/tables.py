"""How the tables of releases are published, told apart, and dropped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa

from cbir.errors import IndexError_
from cbir.index import FINGERPRINT, REGISTRY, SIMILARITY, Index, is_missing
from cbir.records import read_items, read_json, read_table
from cbir.rows import HASHED, ROW_HASH, build_rows, mark_item

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
            _restore_rows(there, _build_rows(ingested, embedded), facts, name=table)
        there.add_missing_index()
        return facts["rows"]
    rows = _build_rows(ingested, embedded)
    marks = {FINGERPRINT: facts["fingerprint"], SIMILARITY: facts["similarity"], REGISTRY: registry}
    rows = rows.replace_schema_metadata({name: value.encode() for name, value in marks.items()})
    written = Index(lancedb.connect(uri).create_table(table, rows))
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
    items = read_items(ingested, columns=list(HASHED)).to_pylist()
    return index.read_marks() == {item["id"]: mark_item(item) for item in items}


def _restore_rows(index: Index, rows: pa.Table, facts: dict[str, Any], *, name: str) -> None:
    """Undo what refreshes did to a release's table: a reader sees it before or after."""
    if index.fingerprint != facts["fingerprint"] or not index.marked:
        raise IndexError_(f"Table {name} is of another release; move it away, then run `cbir-ops retrain`.")
    marks = index.read_marks()
    old = [marks[id_].row_hash if id_ in marks else None for id_ in rows["id"].to_pylist()]
    rows = rows.select([column for column in rows.column_names if column in index.schema.names])
    changed = [n for n, (was, is_) in enumerate(zip(old, rows[ROW_HASH].to_pylist(), strict=True)) if was != is_]
    index.merge(rows.take(pa.array(changed, pa.int64())), delete=sorted(set(marks) - set(rows["id"].to_pylist())))


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


def _build_rows(ingested: Path, embedded: Path) -> pa.Table:
    vectors = read_table(embedded / "embeddings.parquet", made_by="embed")
    items = read_items(ingested)
    assert vectors["id"].to_pylist() == items["id"].to_pylist(), "rows in are not vectors out"
    return build_rows(items, vectors["vector"], refreshed_at=None)
