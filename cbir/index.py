"""How a release's vectors are published as one LanceDB table and searched."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

from cbir.errors import IndexError_, QueryError
from cbir.images import decode_png
from cbir.records import read_items, read_table

THUMBNAIL = 112
FINGERPRINT = b"cbir.fingerprint"
INDEX_FROM_ROWS = 100_000
RELEASE_TABLE = re.compile(r"release_v(\d+)")
SCALARS = (str, int, float, bool)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One answer: ``score`` is the cosine to the query, higher is better; ``thumbnail`` is a JPEG."""

    id: str
    score: float
    caption: str
    label: str
    source_path: str
    attributes: dict[str, Any]
    thumbnail: bytes


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """``size``: bytes; ``written``: when the last of it was."""

    size: int
    written: datetime


def publish_table(*, uri: str, table: str, ingested: Path, embedded: Path) -> int:
    """Write the vectors and rows of a release as ``table``; a table of that name is never overwritten.

    LanceDB commits a table at once, so one that is there is whole; the release key covers its rows.

    Returns:
        The number of rows.

    Raises:
        IndexError_: a table of this name is there and is not this release's.
    """
    facts = _read_facts(embedded)
    database = lancedb.connect(uri)
    if table in _list_tables(database):
        if not holds_release(uri=uri, table=table, embedded=embedded):
            raise IndexError_(
                f"Table {table} in {uri} is of another release; move it away, then run `cbir-ops retrain`."
            )
        return facts["rows"]
    rows = _build_rows(ingested, embedded)
    rows = rows.replace_schema_metadata({FINGERPRINT: facts["fingerprint"].encode()})
    written = database.create_table(table, rows)
    if written.count_rows() >= INDEX_FROM_ROWS:
        written.create_index(metric="l2", vector_column_name="vector", index_type="IVF_SQ")
    return written.count_rows()


def holds_release(*, uri: str, table: str, embedded: Path) -> bool:
    """Whether ``table`` is there, with as many rows as ``embedded`` has vectors, of the same encoder."""
    facts = _read_facts(embedded)
    try:
        index = Index.open(uri=uri, table=table)
    except IndexError_:
        return False
    return index.fingerprint == facts["fingerprint"] and index.rows == facts["rows"]


def list_releases(uri: str) -> dict[str, str]:
    """The tables of releases in ``uri``, by the version of their release; tables of others are left out."""
    found = [(table, RELEASE_TABLE.fullmatch(table)) for table in _list_tables(lancedb.connect(uri))]
    return {match[1]: table for table, match in found if match}


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


def _read_facts(embedded: Path) -> dict[str, Any]:
    return json.loads((embedded / "embedded.json").read_text())


def _list_tables(database: Any) -> list[str]:
    return list(database.table_names(limit=10_000))


def _build_rows(ingested: Path, embedded: Path) -> pa.Table:
    vectors = read_table(embedded / "embeddings.parquet", made_by="embed")
    items = read_items(ingested)
    assert vectors["id"].to_pylist() == items["id"].to_pylist(), "rows in are not vectors out"
    captions, labels = items["original_captions"].to_pylist(), items["labels"].to_pylist()
    attributes = [json.loads(text) for text in items["attributes"].to_pylist()]
    columns: dict[str, Any] = {
        "id": items["id"],
        "vector": vectors["vector"],
        "caption": [texts[0] if texts else "" for texts in captions],
        "label": [row[0] if row else "" for row in labels],
        "source": items["source"],
        "source_path": items["source_path"],
        "group": items["group"],
        "attributes": items["attributes"],
        "thumbnail": [_make_thumbnail(image) for image in items["image"].to_pylist()],
    }
    for name in sorted({key for row in attributes for key in row} - set(columns)):
        values = [row.get(name) for row in attributes]
        kinds = {type(value) for value in values if value is not None}
        if kinds == {int, float} or (kinds == {int} and not _fit_int64(values)):
            columns[name] = pa.array([None if value is None else float(value) for value in values], pa.float64())
        elif len(kinds) == 1 and kinds <= set(SCALARS):
            columns[name] = pa.array(values)
    return pa.table(columns)


def _fit_int64(values: list[Any]) -> bool:
    """A number of over 64 bits, such as a long article number, is searchable as the nearest float."""
    return all(value is None or -(2**63) <= value < 2**63 for value in values)


def _make_thumbnail(png: bytes) -> bytes:
    image = decode_png(png)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


class Index:
    """An index table, open for search."""

    def __init__(self, table: Any) -> None:
        self._table = table

    @classmethod
    def open(cls, *, uri: str, table: str) -> Index:
        """Open ``table``.

        Raises:
            IndexError_: it is not there.
        """
        database = lancedb.connect(uri)
        if table not in _list_tables(database):
            raise IndexError_(
                f"The index table {table} is missing in {uri}; run `cbir-ops retrain` to publish it again."
            )
        return cls(database.open_table(table))

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder that made the vectors."""
        return (self._table.schema.metadata or {}).get(FINGERPRINT, b"").decode()

    @property
    def rows(self) -> int:
        """How many items are in the table."""
        return self._table.count_rows()

    @property
    def version(self) -> int:
        """LanceDB's version of the table."""
        return int(self._table.version)

    def find(self, id_: str) -> dict[str, Any] | None:
        """The row of an item as the table holds it, without vector and thumbnail, or None."""
        names = [name for name in self._table.schema.names if name not in ("vector", "thumbnail")]
        quoted = id_.replace("'", "''")
        rows = self._table.search().where(f"id = '{quoted}'").select(names).limit(1).to_list()
        return dict(rows[0]) if rows else None

    def search(self, vector_D: np.ndarray, *, k: int, where: str | None) -> list[Hit]:
        """The ``k`` items nearest to a unit vector, best first; ``where`` is an SQL condition on the columns.

        Raises:
            QueryError: ``where`` is not a condition on the table's columns.
        """
        query = self._table.search(vector_D).distance_type("l2").limit(k)
        if where:
            query = query.where(where, prefilter=True)
        try:
            rows = query.to_list()
        except (ValueError, RuntimeError, OSError) as error:
            names = ", ".join(name for name in self._table.schema.names if name not in ("vector", "thumbnail"))
            first = str(error).splitlines()[0]
            raise QueryError(f"--where {where!r} does not work ({first}); columns: {names}.") from None
        return [_read_hit(row) for row in rows]


def _read_hit(row: dict[str, Any]) -> Hit:
    return Hit(
        id=row["id"],
        score=1.0 - row["_distance"] / 2.0,
        caption=row["caption"],
        label=row["label"],
        source_path=row["source_path"],
        attributes=json.loads(row["attributes"]),
        thumbnail=row["thumbnail"],
    )
