"""What is shown of an evaluation is what the queries asked and what was found first, the best and the worst of them."""

from __future__ import annotations

import numpy as np
import pytest
from test_query_sets import gallery

from cbir.examples import describe_query, pick_queries, show_queries
from cbir.gallery import Gallery
from cbir.query_sets import list_query_sets, measure_system

__all__ = ["gallery"]  # a fixture


def test_the_best_and_the_worst_are_of_different_clusters_and_none_is_both() -> None:
    value_Q = np.array([0.9, 1.0, 0.1, 0.0, 0.5, 0.8])
    cluster_Q = np.array([0, 0, 1, 1, 2, 3])
    assert pick_queries(value_Q, cluster_Q, most=2) == {"best": [1, 5], "worst": [3, 4]}
    assert pick_queries(value_Q, cluster_Q, most=4) == {"best": [1, 5, 4, 2], "worst": [3, 0]}
    assert pick_queries(np.array([0.5]), np.array([0])) == {"best": [0], "worst": []}


@pytest.mark.parametrize(
    ("name", "picture", "words"),
    [
        ("text_to_image", None, "red"),
        ("image_to_text", "a", None),
        ("label", "a", "red"),
        ("label_name", None, "blue"),
        ("duplicate", "a", None),
        ("relative", "a", "but blue"),
    ],
)
def test_a_query_is_described_by_what_it_asks_with(
    gallery: Gallery, name: str, picture: str | None, words: str | None
) -> None:
    (query_set,) = [one for one in list_query_sets(gallery) if one.name == name]
    described = describe_query(gallery, query_set, 0)
    assert (described["picture"], described["words"]) == (picture, words)


def test_hits_are_the_highest_scores_without_what_the_query_leaves_out(gallery: Gallery) -> None:
    (query_set,) = [one for one in list_query_sets(gallery) if one.name == "label"]
    score_QN = np.array([[9.0, 1.0, 3.0, 2.0], [0.5, 9.0, 0.25, 0.75]])

    def score(start: int, stop: int) -> np.ndarray:
        return score_QN[start:stop].copy()

    answers = measure_system(gallery, query_set, system="fused_both", score=score, ks=(1,))
    shown = show_queries(gallery, query_set, answers, score=score)
    assert shown["system"] == "fused_both"
    (best,) = shown["best"]  # both queries are of one cluster
    assert (best["query"], best["average_precision"]) == ("b", 0.5)
    assert [(hit["id"], hit["relevant"]) for hit in best["hits"]] == [("d", False), ("a", True), ("c", False)]
    (worst,) = shown["worst"]
    assert [hit["id"] for hit in worst["hits"]] == ["c", "d", "b"]
    assert [query["wanted"] for query in (best, worst)] == [
        {"id": "a", "score": 0.5, "rank": 2},
        {"id": "b", "score": 1.0, "rank": 3},
    ]
