"""Properties of a split."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cbir.params import SplitParams
from cbir.split import assign_clusters, cluster_items

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
