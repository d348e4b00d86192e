"""Properties of a split."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbir.clusters import connect_rows, find_equals, find_near, mark_near
from cbir.errors import SplitError
from cbir.params import SplitParams
from cbir.records import ITEM_SCHEMA, read_table, write_table
from cbir.split import assign_clusters, cluster_items, split_items

hexes = st.integers(0, 2**64 - 1).map(lambda n: f"{n:016x}")
catalogues = st.lists(
    st.tuples(st.integers(0, 12), hexes, st.sampled_from(["cat", "dog", "bird"])), min_size=30, max_size=120
)


@settings(max_examples=40, deadline=None)
@given(catalogues, st.integers(0, 5))
def test_no_group_straddles_and_every_item_has_one_split(rows: list[tuple[int, str, str]], seed: int) -> None:
    groups = [str(group) for group, _, _ in rows]
    cluster = cluster_items(groups, [str(n) for n in range(len(rows))], [p for _, p, _ in rows], distance=2)
    where = assign_clusters(cluster, [[label] for _, _, label in rows], params=SplitParams(seed=seed))
    assert set(where) <= {"train", "validation", "test"}
    for group in set(groups):
        assert len({where[n] for n, g in enumerate(groups) if g == group}) == 1


def test_near_equal_pictures_are_one_cluster_and_far_ones_are_not() -> None:
    cluster = cluster_items(["a", "b", "c"], ["1", "2", "3"], ["0" * 16, "0" * 15 + "3", "f" * 16], distance=2)
    assert cluster[0] == cluster[1] != cluster[2]


def test_a_chain_of_near_equal_pictures_stays_together_however_long() -> None:
    chain = [f"{(1 << n) - 1:016x}" for n in range(64)]
    assert set(cluster_items([str(n) for n in range(64)], [str(n) for n in range(64)], chain, distance=1)) == {0}


near_hashes = st.lists(st.integers(0, 40).map(lambda n: n * 0x0101), max_size=50)  # many are equal, many are near


@given(near_hashes, st.integers(0, 6), st.integers(1, 50))
def test_hashes_are_connected_as_by_comparing_all_however_few_at_once(
    hashes: list[int], distance: int, at_once: int
) -> None:
    every = [
        (a, b) for a, one in enumerate(hashes) for b, two in enumerate(hashes) if (one ^ two).bit_count() <= distance
    ]
    near = find_near(np.array(hashes, np.uint64), distance=distance, pairs=at_once)
    found = connect_rows(find_equals([str(one) for one in hashes]), near, count=len(hashes))
    assert found.tolist() == connect_rows(np.array(every, np.int64).reshape(-1, 2), count=len(hashes)).tolist()


def test_many_equal_and_many_nearly_equal_pictures_take_no_more_memory_than_others() -> None:
    equal = np.full(20_000, 7, np.uint64)
    near = np.array([sum(1 << n for n in bits) for bits in combinations(range(24), 3)], np.uint64)  # all within 6
    tracemalloc.start()
    assert len(find_near(equal, distance=4)) == 0
    assert len(find_near(near, distance=6, pairs=2**16)) <= 2 * 2**16
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_large_cluster_does_not_take_the_test_split_of_its_label() -> None:
    cluster = np.array([0] * 60 + list(range(1, 41)))
    where = assign_clusters(cluster, [["cat"]] * 100, params=SplitParams(validation=0.1, test=0.2))
    assert (where[0], int((where == "test").sum()), int((where == "validation").sum())) == ("train", 20, 10)


def test_fractions_are_kept_where_every_item_stands_alone() -> None:
    labels = [["cat"], ["dog"]] * 250
    where = assign_clusters(np.arange(500), labels, params=SplitParams(validation=0.1, test=0.2))
    assert {name: int((where == name).sum()) for name in ("train", "validation", "test")} == {
        "train": 350,
        "validation": 50,
        "test": 100,
    }
    assert abs(sum(row == ["cat"] for row, name in zip(labels, where, strict=True) if name == "test") - 50) <= 2


def test_the_same_seed_gives_the_same_split() -> None:
    labels = [[str(n % 5)] for n in range(100)]
    first, second = (assign_clusters(np.arange(100), labels, params=SplitParams(seed=3)) for _ in range(2))
    assert (first == second).all()


def write_items(folder: Path, rows: list[tuple[str, str | None]], *, phashes: Mapping[int, str] | None = None) -> None:
    items = [
        {
            "id": str(n),
            "group": group,
            "given_split": given_split,
            "sha256": f"{n:064x}",
            "phash": (phashes or {}).get(n, f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}"),
            "labels": [],
        }
        for n, (group, given_split) in enumerate(rows)
    ]
    write_table(folder / "items-00000.parquet", pa.Table.from_pylist(items, schema=ITEM_SCHEMA))


def test_an_item_without_a_split_follows_its_cluster_to_the_given_one(tmp_path: Path) -> None:
    rows: list[tuple[str, str | None]] = []
    for n in range(60):
        rows += [(f"g{n}", "test" if n < 30 else None), (f"g{n}", None)]
    write_items(tmp_path / "in", rows)
    split_items(tmp_path / "in", tmp_path / "out", params=SplitParams(phash_distance=0))
    where = read_table(tmp_path / "out" / "split.parquet", made_by="split")["split"].to_pylist()
    assert where[:60] == ["test"] * 60
    assert all(where[n] == where[n + 1] for n in range(0, 120, 2))
    assert json.loads((tmp_path / "out" / "split.json").read_text())["leaking_clusters"] == 0


def test_given_splits_that_divide_a_cluster_are_kept_and_counted(tmp_path: Path) -> None:
    rows: list[tuple[str, str | None]] = [("a", "train"), ("a", "test"), *((f"g{n}", None) for n in range(40))]
    write_items(tmp_path / "in", rows)
    split_items(tmp_path / "in", tmp_path / "out", params=SplitParams(phash_distance=0))
    where = read_table(tmp_path / "out" / "split.parquet", made_by="split")["split"].to_pylist()
    assert where[:2] == ["train", "test"]
    assert json.loads((tmp_path / "out" / "split.json").read_text())["leaking_clusters"] == 1


@pytest.mark.parametrize(("other", "near"), [("train", 1), ("validation", 1), ("test", 0)])
def test_a_test_item_near_one_that_is_learnt_from_is_counted_as_a_leak(tmp_path: Path, other: str, near: int) -> None:
    rows = [("a", "test"), ("b", other), *((f"g{n}", None) for n in range(40))]
    write_items(tmp_path / "in", rows, phashes={1: "0" * 15 + "1"})  # the first one's is all zeros
    split_items(tmp_path / "in", tmp_path / "out", params=SplitParams(phash_distance=1))
    assert json.loads((tmp_path / "out" / "split.json").read_text())["test_items_near_training"] == near


@pytest.mark.parametrize(
    ("rows", "params", "remedy"),
    [
        ([("a", "val")], SplitParams(), "use train, validation, test"),
        ([], SplitParams(), "import a source"),
        ([("a", None)], SplitParams(validation=0.5, test=0.5), "lower them"),
    ],
    ids=["unknown split", "no items", "nothing to train on"],
)
def test_a_split_that_cannot_be_names_the_remedy(
    rows: list[tuple[str, str | None]], params: SplitParams, remedy: str, tmp_path: Path
) -> None:
    write_items(tmp_path / "in", rows)
    with pytest.raises(SplitError, match=remedy):
        split_items(tmp_path / "in", tmp_path / "out", params=params)
    assert not (tmp_path / "out").exists()


def test_near_duplicates_between_test_and_training_are_counted() -> None:
    test, train = (np.array(hashes, dtype=np.uint64) for hashes in ([0b0, 0b1111_0000, 2**63], [0b11, 2**40]))
    assert mark_near(test, train, distance=2).sum() == 2


def read_split(folder: Path) -> dict[str, str]:
    rows = read_table(folder / "split.parquet", made_by="split")
    return dict(zip(rows["id"].to_pylist(), rows["split"].to_pylist(), strict=True))


def test_without_an_earlier_split_it_is_drawn_as_ever(tmp_path: Path) -> None:
    write_items(tmp_path / "in", [(f"g{n % 90}", None) for n in range(120)])
    (tmp_path / "kept").mkdir()
    split_items(tmp_path / "in", tmp_path / "one", params=SplitParams(phash_distance=0))
    split_items(tmp_path / "in", tmp_path / "two", params=SplitParams(phash_distance=0), kept=tmp_path / "kept")
    assert (tmp_path / "one/split.parquet").read_bytes() == (tmp_path / "two/split.parquet").read_bytes()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=40, max_size=60), st.lists(st.integers(41, 80), max_size=60), st.integers()
)
def test_items_stay_where_they_were_as_the_catalogue_grows_and_splitting_again_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory, old: list[int], new: list[int], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("grow")
    params = SplitParams(phash_distance=0, seed=abs(seed))
    write_items(folder / "first", [(f"g{n}", None) for n in [*old, 81, 82, 83]])
    write_items(folder / "grown", [(f"g{n}", None) for n in [*old, 81, 82, 83, *new]])
    split_items(folder / "first", folder / "a", params=params)
    split_items(folder / "grown", folder / "b", params=params, kept=folder / "a")
    split_items(folder / "grown", folder / "c", params=params, kept=folder / "b")
    first, grown = read_split(folder / "a"), read_split(folder / "b")
    assert {id_: grown[id_] for id_ in first} == first
    assert (folder / "b/split.parquet").read_bytes() == (folder / "c/split.parquet").read_bytes()


def test_a_grown_catalogue_fills_up_the_test_set_with_new_items(tmp_path: Path) -> None:
    write_items(tmp_path / "first", [(f"g{n}", None) for n in range(100)])
    write_items(tmp_path / "grown", [(f"g{n}", None) for n in range(200)])
    split_items(tmp_path / "first", tmp_path / "a", params=SplitParams(phash_distance=0))
    counts = split_items(tmp_path / "grown", tmp_path / "b", params=SplitParams(phash_distance=0), kept=tmp_path / "a")
    assert counts == {"train": 140, "validation": 20, "test": 40}


def test_a_picture_that_joins_training_and_test_takes_both_to_training(tmp_path: Path) -> None:
    write_items(tmp_path / "first", [(f"g{n}", None) for n in range(60)])
    split_items(tmp_path / "first", tmp_path / "a", params=SplitParams(phash_distance=0))
    before = read_split(tmp_path / "a")
    train, test = (next(int(id_) for id_, name in before.items() if name == split) for split in ("train", "test"))
    groups = [f"g{train if n == test else n}" for n in range(60)]
    write_items(tmp_path / "joined", [(group, None) for group in groups])
    split_items(tmp_path / "joined", tmp_path / "b", params=SplitParams(phash_distance=0), kept=tmp_path / "a")
    after = read_split(tmp_path / "b")
    assert (after[str(train)], after[str(test)]) == ("train", "train")
    assert {id_ for id_ in before if before[id_] != after[id_]} == {str(test)}


def test_a_split_is_drawn_anew_where_it_is_not_to_be_kept(tmp_path: Path) -> None:
    write_items(tmp_path / "in", [(f"g{n}", None) for n in range(100)])
    split_items(tmp_path / "in", tmp_path / "a", params=SplitParams(phash_distance=0))
    for keep in (True, False):
        params = SplitParams(phash_distance=0, seed=1, keep=keep)
        split_items(tmp_path / "in", tmp_path / "b", params=params, kept=tmp_path / "a")
        assert (read_split(tmp_path / "b") == read_split(tmp_path / "a")) == keep
