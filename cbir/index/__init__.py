"""How a release's table is searched, refreshed and kept tidy; alone in importing LanceDB."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import lancedb
import numpy as np
import pyarrow as pa

from cbir.conditions import CONDITION_FAULTS, enclose_condition, explain_condition, quote_lance
from cbir.errors import IndexError_, QueryError
from cbir.rows import ADDED, ROW_HASH, SHA256, TEXT_HASH, Marks
from cbir.similarity import Similarity, shorten_vectors

FINGERPRINT = b"cbir.fingerprint"
SIMILARITY = b"cbir.similarity"
REGISTRY = b"cbir.registry"  # whose release a table is; tables of earlier versions of cbir-ops do not say
DISTANCES: dict[Similarity, Literal["l2", "dot"]] = {  # of LanceDB; for the cosine, vectors have unit length
    "cosine": "l2",
    "euclidean": "l2",
    "dot": "dot",
}
INDEX_FROM_ROWS = 100_000
HELD = timedelta(days=7)  # for how long a reader may go on with rows that were replaced
MARGIN = timedelta(hours=1)  # LanceDB looks at its clock only after what it does first
MOST_FRAGMENTS = 10  # small ones: each refresh leaves one
MOST_LOOSE = 10_000  # rows outside the vector index, or deleted and still in a file


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One answer: ``score`` is by the encoder's similarity, higher is better; ``thumbnail`` is a JPEG.

    ``agreeing``: places of the query's picture that were found in this one, where that was looked at.
    """

    id: str
    score: float
    caption: str
    label: str
    source_path: str
    attributes: dict[str, Any]
    thumbnail: bytes
    agreeing: int | None = None


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
        if is_missing(uri):
            raise IndexError_(
                f"There is no index in {uri}; mend CBIR_INDEX_URI where it is set, else `cbir-ops retrain` makes one."
            )
        try:
            return cls(lancedb.connect(uri).open_table(table))
        except ValueError as error:
            if "was not found" not in str(error):
                raise
            raise IndexError_(
                f"The index table {table} is missing in {uri}; run `cbir-ops retrain` to publish it again."
            ) from None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder that made the vectors."""
        return (self._table.schema.metadata or {}).get(FINGERPRINT, b"").decode()

    @property
    def similarity(self) -> Similarity:
        """How the vectors are compared; the cosine in tables that do not say."""
        name = (self._table.schema.metadata or {}).get(SIMILARITY, b"cosine").decode()
        assert name in DISTANCES, "as it was published"
        return cast(Similarity, name)

    @property
    def registry(self) -> str:
        """The mark of the registry that it was published from; empty in tables that do not say."""
        return (self._table.schema.metadata or {}).get(REGISTRY, b"").decode()

    @property
    def dimensions(self) -> int:
        """Length of every vector."""
        return int(self._table.schema.field("vector").type.list_size)

    @property
    def rows(self) -> int:
        """How many items are in the table."""
        return self._table.count_rows()

    @property
    def version(self) -> int:
        """LanceDB's version of the table."""
        return int(self._table.version)

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self._table.schema

    @property
    def marked(self) -> bool:
        """Whether its rows carry the hashes of their items; those of earlier versions of cbir-ops do not."""
        return set(ADDED) <= set(self._table.schema.names)

    def read_marks(self) -> dict[str, Marks]:
        """The hashes of every row, by its id; None in tables without."""
        names = [SHA256, TEXT_HASH, ROW_HASH]
        found = self._read_columns(["id", *names] if self.marked else ["id"])
        ids = found["id"].to_pylist()
        hashes = [found[name].to_pylist() if self.marked else [None] * len(ids) for name in names]
        return {
            id_: Marks(sha256=sha256, text_hash=text, row_hash=row)
            for id_, sha256, text, row in zip(ids, *hashes, strict=True)
        }

    def read_ids(self) -> set[str]:
        """The ids of every row."""
        return set(self._read_columns(["id"])["id"].to_pylist())

    def _read_columns(self, names: Sequence[str]) -> pa.Table:
        return self._table.search().select(list(names)).limit(max(self.rows, 1)).to_arrow()

    def read_vectors(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Vectors of the rows with these ids."""
        if not ids:
            return {}
        found = self._table.search().where(f"id IN ({_quote(ids)})").select(["id", "vector"]).limit(len(ids))
        return {row["id"]: np.array(row["vector"], np.float32) for row in found.to_list()}

    def add_marks(self) -> None:
        """Give a table of before there were hashes the columns for them, empty."""
        missing = {name: "cast(NULL as string)" for name in ADDED if name not in self._table.schema.names}
        if missing:
            self._table.add_columns(missing)

    def merge(self, rows: pa.Table, *, delete: Sequence[str]) -> None:
        """Insert or replace ``rows`` by their ids, and delete the rows of the ids in ``delete``, in one commit.

        Only one process at a time may: LanceDB lets two that insert the same ids both do so.
        """
        condition = f"id IN ({_quote(delete)})"
        if rows.num_rows:
            merging = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            if delete:
                merging = merging.when_not_matched_by_source_delete(condition)
            merging.execute(rows)
        elif delete:
            self._table.delete(condition)

    def add_missing_index(self) -> None:
        """Build the vector index of a table that is large enough for one and has none."""
        if self.rows >= INDEX_FROM_ROWS and self._find_index() is None:
            self._table.create_index(
                metric=DISTANCES[self.similarity], vector_column_name="vector", index_type="IVF_SQ"
            )

    def tidy(self) -> None:
        """Join small files, index what is outside the index and free the room of old rows, where there is much of it.

        LanceDB tells a version's age from its making, not from when the next one replaced it: by that, a reader of a
        table that was old before its first refresh would lose it at once. So the last version that is older than
        ``HELD`` stays; those before it were replaced longer ago.
        """
        self.add_missing_index()
        versions = self._table.list_versions()
        made = [version["timestamp"].astimezone(UTC) for version in versions]
        now = datetime.now(UTC)
        last = max((time for time in made if time <= now - HELD), default=min(made)) - MARGIN
        index = self._find_index()
        loose = int(versions[-1]["metadata"]["total_deletion_file_rows"]) + (index.num_unindexed_rows if index else 0)
        small = self._table.stats()["fragment_stats"]["num_small_fragments"]
        if min(made) < last or loose > MOST_LOOSE or small > MOST_FRAGMENTS:
            self._table.optimize(cleanup_older_than=now - last)

    def _find_index(self) -> Any:
        return next((index for index in self._table.list_indices() if index.columns == ["vector"]), None)

    def count(self, where: str) -> int:
        """How many rows a condition leaves."""
        return int(self._table.count_rows(enclose_condition(where)))

    def restore(self, version: int) -> None:
        """Make the rows of an earlier version the current ones."""
        self._table.restore(version)

    def find(self, id_: str) -> dict[str, Any] | None:
        """The row of an item as the table holds it, without vector and thumbnail, or None."""
        names = [name for name in self._table.schema.names if name not in ("vector", "thumbnail")]
        rows = self._table.search().where(f"id = {_quote([id_])}").select(names).limit(1).to_list()
        return dict(rows[0]) if rows else None

    def search(self, vector_D: np.ndarray, *, k: int, where: str | None) -> list[Hit]:
        """The ``k`` items nearest to an encoder's vector, best first; ``where`` is an SQL condition on the columns.

        Of a vector that is longer than the table's, the first dimensions are searched with.

        Raises:
            QueryError: ``where`` is not a condition on the table's columns.
            IndexError_: the table does not answer.
        """
        similarity = self.similarity
        short_D = shorten_vectors(vector_D[None], self.dimensions, similarity)[0]
        query = self._table.search(short_D).distance_type(DISTANCES[similarity]).limit(k)
        if where:
            query = query.where(enclose_condition(where), prefilter=True)
        try:
            rows = query.to_list()
        except (ValueError, RuntimeError, OSError) as error:
            if where and (isinstance(error, ValueError) or any(name in str(error) for name in CONDITION_FAULTS)):
                raise QueryError(explain_condition(where, error, self._table.schema.names)) from None
            raise blame_table(self._table.name, error) from None
        return [_read_hit(row, score=_score_distance(row["_distance"], similarity)) for row in rows]


def is_missing(uri: str) -> bool:
    """Whether ``uri`` is a folder of this machine that is not there, and that LanceDB would make only to look into."""
    return "://" not in uri and not Path(uri).exists()


def blame_table(name: str, error: Exception) -> IndexError_:
    """The fault of a table that is there and does not answer."""
    return IndexError_(
        f"The index table {name} does not answer ({quote_lance(error)}). If CBIR_INDEX_URI is set, see that it is "
        "right and can be reached. If so, the table's files are damaged: move it away, then run `cbir-ops retrain` to "
        "publish it again."
    )


def _quote(ids: Sequence[str]) -> str:
    """Ids as literals of SQL."""
    return ", ".join("'" + id_.replace("'", "''") + "'" for id_ in ids)


def _score_distance(distance: float, similarity: Similarity) -> float:
    """LanceDB's distance as the similarity: it gives the squared Euclidean distance, and 1 less the dot product."""
    match similarity:
        case "cosine":
            return 1.0 - distance / 2.0
        case "dot":
            return 1.0 - distance
    return -distance


def _read_hit(row: dict[str, Any], *, score: float) -> Hit:
    return Hit(
        id=row["id"],
        score=score,
        caption=row["caption"],
        label=row["label"],
        source_path=row["source_path"],
        attributes=json.loads(row["attributes"]),
        thumbnail=row["thumbnail"],
    )
