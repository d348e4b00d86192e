"""A table holds one release for good, and its attributes can be asked for."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from memory import list_ids, measure_share, write_shards
from PIL import Image

from cbir.errors import IndexError_, QueryError
from cbir.images import encode_png
from cbir.index import Index
from cbir.index.tables import holds_release, list_releases, publish_table
from cbir.records import ITEM_SCHEMA, write_json, write_table
from cbir.similarity import Similarity, compare_vectors

VECTORS = np.eye(4, dtype=np.float32)
PRICES: list[Any] = [1, 2.5, None, 4]


def publish(
    folder: Path, *, fingerprint: str = "f", prices: list[Any] = PRICES, similarity: Similarity = "cosine"
) -> int:
    picture = encode_png(Image.new("RGB", (8, 8)))
    rows = [
        {
            "id": str(n),
            "image": picture,
            "source": "s",
            "sha256": str(n),
            "source_path": f"s/{n}.png",
            "original_captions": [f"picture {n}"],
            "labels": [],
            "group": str(n),
            "attributes": json.dumps({"price": price}),
        }
        for n, price in enumerate(prices)
    ]
    write_table(folder / "items-00000.parquet", pa.Table.from_pylist(rows, schema=ITEM_SCHEMA))
    column = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.ravel()), 4)
    write_table(folder / "embeddings.parquet", pa.table({"id": list("0123"), "vector": column}))
    write_json(
        folder / "embedded.json", {"fingerprint": fingerprint, "similarity": similarity, "dimensions": 4, "rows": 4}
    )
    return publish_table(uri=str(folder / "db"), table="release_v1", ingested=folder, embedded=folder)


def test_a_column_of_whole_and_broken_numbers_can_be_filtered(tmp_path: Path) -> None:
    publish(tmp_path)
    hits = Index.open(uri=str(tmp_path / "db"), table="release_v1").search(VECTORS[3], k=4, where="price > 2")
    assert [(hit.id, hit.score) for hit in hits] == [("3", pytest.approx(1.0)), ("1", pytest.approx(0.0))]


@pytest.mark.parametrize("wide", [2**63, -(2**63) - 1, 10**30])
def test_a_whole_number_of_over_64_bits_can_be_filtered_and_comes_back_exact(tmp_path: Path, wide: int) -> None:
    publish(tmp_path, prices=[wide, None, 2, 3])
    index = Index.open(uri=str(tmp_path / "db"), table="release_v1")
    hits = index.search(VECTORS[0], k=4, where=f"price {'>' if wide > 0 else '<'} {wide / 2:e}")
    assert [hit.attributes for hit in hits] == [{"price": wide}]


def test_a_whole_number_of_just_64_bits_stays_one(tmp_path: Path) -> None:
    publish(tmp_path, prices=[2**63 - 1, None, 2**63 - 2, 3])
    index = Index.open(uri=str(tmp_path / "db"), table="release_v1")
    assert [hit.id for hit in index.search(VECTORS[0], k=4, where=f"price = {2**63 - 2}")] == ["2"]


def test_a_table_holds_a_release_only_with_its_fingerprint_and_its_rows(tmp_path: Path) -> None:
    uri = str(tmp_path / "db")
    publish(tmp_path)
    assert holds_release(uri=uri, table="release_v1", ingested=tmp_path, embedded=tmp_path)
    assert not holds_release(uri=uri, table="release_v2", ingested=tmp_path, embedded=tmp_path)
    for facts in ({"fingerprint": "g", "rows": 4}, {"fingerprint": "f", "rows": 5}):
        write_json(tmp_path / "embedded.json", facts)
        assert not holds_release(uri=uri, table="release_v1", ingested=tmp_path, embedded=tmp_path)


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    assert [publish(tmp_path), publish(tmp_path)] == [4, 4]


def test_publishing_has_few_of_the_catalogues_pictures_in_memory_at_a_time(tmp_path: Path) -> None:
    write_shards(tmp_path)
    ids = list_ids()
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.eye(len(ids), 4, dtype=np.float32).ravel()), 4)
    write_table(tmp_path / "embeddings.parquet", pa.table({"id": ids, "vector": column}))
    facts = {"fingerprint": "f", "similarity": "cosine", "dimensions": 4, "rows": len(ids)}
    write_json(tmp_path / "embedded.json", facts)

    def publish_again() -> int:
        return publish_table(uri=str(tmp_path / "db"), table="release_v1", ingested=tmp_path, embedded=tmp_path)

    assert measure_share(publish_again) < 0.5
    index = Index.open(uri=str(tmp_path / "db"), table="release_v1")
    assert index._table.to_arrow()["id"].to_pylist() == ids
    assert index._table.stats()["fragment_stats"]["num_fragments"] == 1
    index._table.update(values={"row_hash": "of a refresh"})
    assert measure_share(publish_again) < 0.5
    assert holds_release(uri=str(tmp_path / "db"), table="release_v1", ingested=tmp_path, embedded=tmp_path)


def test_the_table_of_another_release_is_never_overwritten(tmp_path: Path) -> None:
    publish(tmp_path)
    with pytest.raises(IndexError_, match="of another release"):
        publish(tmp_path, fingerprint="g")
    assert Index.open(uri=str(tmp_path / "db"), table="release_v1").fingerprint == "f"


COLUMNS = "Columns: id, caption, label, labels, source, source_path, group, attributes, sha256, refreshed_at, price."


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("labl = 'red'", "there is no column labl; did you mean label?"),
        (
            "caption = red",
            "there is no column red; if it is meant as text, write 'red'. An attribute of several types, "
            "or that came with a refresh, has no column.",
        ),
        ("label = 'a;b'; price < 3", "one condition, without a semicolon; join two with AND or OR."),
        ("vector = 1", "vector cannot be searched by."),
        ("label = 'x", "does not work: invalid SQL predicate: Unterminated string literal."),
        ("label =", "does not work: Expected: an expression, found: )."),
        ("label = 'a' price < 3", "does not work: Expected: ), found: price."),
        ("label = 'a' LIMIT 1", "does not work: Expected: ), found: LIMIT."),
        ("label = 'a') garbage", "a bracket is closed that was not opened."),
        ("label = 'a') OR (price < 3", "a bracket is closed that was not opened."),
        ("count(*) > 1", "a condition is asked of one item at a time; count(...) and the like are of many."),
        ("label > 3", "does not work: Received literal Int64(3) and could not convert to literal of type 'Utf8'."),
        ("1/0 = 1", "does not work: Arrow error: Divide by zero error."),
    ],
)
def test_a_filter_that_does_not_work_is_told_in_a_sentence_with_the_columns_once(
    tmp_path: Path, where: str, said: str
) -> None:
    publish(tmp_path)
    with pytest.raises(QueryError) as fault:
        Index.open(uri=str(tmp_path / "db"), table="release_v1").search(VECTORS[0], k=1, where=where)
    assert str(fault.value).startswith(f"--where {where!r}")
    told = " ".join(str(fault.value).split(repr(where), 1)[1].lstrip(": ").split())
    assert told == (f"{said} {COLUMNS}" if "does not work" in said or "column" in said or "searched" in said else said)


@pytest.mark.parametrize("where", [None, "label = 'red'"])
def test_a_damaged_table_is_not_taken_for_a_wrong_filter(tmp_path: Path, where: str | None) -> None:
    publish(tmp_path)
    index = Index.open(uri=str(tmp_path / "db"), table="release_v1")
    for file in (tmp_path / "db/release_v1.lance/data").iterdir():
        file.unlink()
    with pytest.raises(IndexError_, match=r"release_v1 does not answer \(Not found: .*\.lance\)\. .*cbir-ops retrain"):
        index.search(VECTORS[0], k=1, where=where)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_a_table_scores_by_the_similarity_it_was_published_with(similarity: Similarity, tmp_path: Path) -> None:
    publish(tmp_path, similarity=similarity)
    query_D = np.array([0.0, 0.0, 0.6, 0.8], np.float32)
    hits = Index.open(uri=str(tmp_path / "db"), table="release_v1").search(query_D, k=4, where=None)
    expected = compare_vectors(query_D[None], VECTORS, similarity)[0]
    assert [hit.id for hit in hits][:2] == ["3", "2"]
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_a_table_of_fewer_dimensions_is_searched_with_the_first_ones(tmp_path: Path) -> None:
    publish(tmp_path)
    longer_D = np.array([0.0, 0.0, 0.3, 0.4, 0.7, 0.5], np.float32)
    hits = Index.open(uri=str(tmp_path / "db"), table="release_v1").search(longer_D, k=1, where=None)
    assert [(hit.id, hit.score) for hit in hits] == [("3", pytest.approx(0.8, abs=1e-5))]


def test_a_table_whose_writer_was_killed_before_its_commit_is_missing_and_published_anew(tmp_path: Path) -> None:
    half = tmp_path / "db" / "release_v1.lance" / "data"
    half.mkdir(parents=True)
    (half / "x.lance").write_bytes(b"abc")
    with pytest.raises(IndexError_, match="release_v1 is missing"):
        Index.open(uri=str(tmp_path / "db"), table="release_v1")
    assert publish(tmp_path) == 4
    assert Index.open(uri=str(tmp_path / "db"), table="release_v1").rows == 4


def test_a_vector_index_that_a_killed_writer_left_unbuilt_is_built_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path)
    index = Index.open(uri=str(tmp_path / "db"), table="release_v1")
    assert list(index._table.list_indices()) == []
    monkeypatch.setattr("cbir.index.INDEX_FROM_ROWS", 4)
    assert publish(tmp_path) == 4
    (built,) = Index.open(uri=str(tmp_path / "db"), table="release_v1")._table.list_indices()
    assert (built.columns, built.num_indexed_rows) == (["vector"], 4)


def merge_row(index: Index, id_: str) -> None:
    row = index._table.search().where("id = '3'").to_arrow()
    index.merge(row.set_column(0, "id", pa.array([id_])), delete=[])


def test_many_small_files_are_joined_and_their_rows_get_into_the_vector_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbir.index.INDEX_FROM_ROWS", 4)
    publish(tmp_path)
    index = Index.open(uri=str(tmp_path / "db"), table="release_v1")
    for n in range(9):
        merge_row(index, f"new {n}")
    index.tidy()
    assert index._find_index().num_unindexed_rows == 9, "ten files are few"
    merge_row(index, "new 9")
    index.tidy()
    assert index._table.stats()["fragment_stats"]["num_fragments"] == 2, "what is in the index, and what was not"
    assert (index._find_index().num_indexed_rows, index._find_index().num_unindexed_rows, index.rows) == (14, 0, 14)


def test_old_rows_leave_the_disk_once_no_reader_can_hold_them_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbir.index.HELD", timedelta(seconds=2))
    monkeypatch.setattr("cbir.index.MARGIN", timedelta(seconds=1))
    publish(tmp_path)
    time.sleep(2.2)  # the table is old
    held = Index.open(uri=str(tmp_path / "db"), table="release_v1")
    index = Index.open(uri=str(tmp_path / "db"), table="release_v1")
    index.merge(index._table.search().limit(4).to_arrow(), delete=[])
    index.tidy()
    assert len(held.search(VECTORS[0], k=4, where=None)) == 4
    time.sleep(2.2)
    index.tidy()
    assert 1 not in [version["version"] for version in index._table.list_versions()]
    assert len(Index.open(uri=str(tmp_path / "db"), table="release_v1").search(VECTORS[0], k=4, where=None)) == 4


def test_looking_for_an_index_makes_none(tmp_path: Path) -> None:
    nowhere = tmp_path / "mistyped"
    assert list_releases(str(nowhere)) == {}
    with pytest.raises(IndexError_, match=r"no index in .*mistyped; mend CBIR_INDEX_URI where it is set"):
        Index.open(uri=str(nowhere), table="release_v1")
    assert not nowhere.exists()
