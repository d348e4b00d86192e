"""Each query counts in the slices of the item that asks it, and a slice of few queries is not scored."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cbir.answers import Answers
from cbir.errors import ParamsError
from cbir.slices import THIRDS, measure_slices, slice_items


def build_items(**columns: list[Any]) -> pa.Table:
    count = len(next(iter(columns.values())))
    defaults: dict[str, list[Any]] = {
        "id": [f"s/{n}" for n in range(count)],
        "source": ["s"] * count,
        "captions": [["words"]] * count,
        "labels": [[]] * count,
        "attributes": ["{}"] * count,
        "width": [10] * count,
        "height": [10] * count,
    }
    return pa.table(defaults | columns)


def build_answers(ap: list[float], *, query_set: str = "label", system: str = "fused_both") -> Answers:
    return Answers(
        query_set=query_set,
        system=system,
        ids=[f"s/{n}" for n in range(len(ap))],
        cluster_Q=np.arange(len(ap)),
        figures={"map": np.array(ap), "hit@1": np.array(ap) > 0.5},
        precision_QP=np.zeros((len(ap), 11)),
    )


def test_labels_slice_by_their_top_level_and_may_overlap() -> None:
    items = build_items(labels=[["food/fruit", "plant/tree"], ["food/bread", "food/fruit"], []])
    assert slice_items(items, "label") == [["food", "plant"], ["food"], ["none"]]


def test_items_slice_by_the_source_they_came_from() -> None:
    assert slice_items(build_items(source=["photos", "icons"]), "source") == [["photos"], ["icons"]]


def test_captions_slice_by_whether_there_are_some() -> None:
    assert slice_items(build_items(captions=[["words"], [], None]), "has_caption") == [["yes"], ["no"], ["no"]]


def test_sizes_are_cut_into_thirds_by_area_and_equal_sizes_stay_together() -> None:
    items = build_items(width=[10, 1, 100, 2, 50, 3], height=[10, 1, 100, 2, 50, 3])
    small, middle, large = THIRDS
    assert slice_items(items, "size") == [[middle], [small], [large], [small], [large], [middle]]
    assert slice_items(build_items(width=[7, 7]), "size") == [["all alike"], ["all alike"]]


def test_attributes_slice_by_value_and_numbers_of_many_values_by_thirds() -> None:
    rows = [{"shop": "a", "price": n, "tags": ["x", "y"]} for n in range(29)] + [{"tags": []}]
    items = build_items(attributes=[json.dumps(row) for row in rows])
    assert slice_items(items, "shop") == [["a"]] * 29 + [["none"]]
    assert slice_items(items, "tags") == [["x", "y"]] * 29 + [["none"]]
    prices = [slices[0] for slices in slice_items(items, "price")]
    assert [prices.count(third) for third in (*THIRDS, "none")] == [10, 9, 10, 1]


def test_an_attribute_that_no_item_has_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ParamsError, match=r"'prise', which no item has; use label, source, has_caption, size, price"):
        slice_items(build_items(attributes=['{"price": 3}']), "prise")


def test_a_slice_has_the_mean_of_its_own_queries_and_few_queries_have_none() -> None:
    items = build_items(labels=[["red"]] * 4 + [["blue"]] * 2)
    answers = build_answers([1.0, 0.5, 0.5, 0.0, 1.0, 1.0])
    found = measure_slices([answers], items, names=["label"], least_queries=3, seed=0)["label"]["label"]
    assert found["too_few"] == {"blue": 2}
    red = found["scored"]["red"]
    assert (red["queries"], red["map"], red["hit@1"]) == (4, 0.5, 0.25)
    assert 0.0 <= red["interval"]["map"]["low"] <= 0.5 <= red["interval"]["map"]["high"] <= 1.0


def test_only_the_encoder_and_queries_of_items_are_sliced() -> None:
    rival = build_answers([1.0, 1.0], system="histogram", query_set="duplicate")
    golden = Answers(
        query_set="golden",
        system="fused",
        ids=["a fruit"],
        cluster_Q=np.zeros(1),
        figures={"map": np.ones(1)},
        precision_QP=np.zeros((1, 11)),
    )
    found = measure_slices([rival, golden], build_items(width=[1, 2]), names=["size"], least_queries=1, seed=0)
    assert found == {"size": {}}
