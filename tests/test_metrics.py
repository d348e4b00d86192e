"""The figures that ours are checked against, themselves against values worked out by hand and pytrec_eval."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from full_matrix import (
    average_precision,
    hit_at_k,
    ndcg_at_k,
    precision_at_k,
    precision_recall_curve,
    recall_at_k,
    reciprocal_rank,
    sort_relevance,
)

RANKED = np.array([[True, False, True, False], [False, False, False, True]])
TOTAL = np.array([2, 1])


def test_average_precision_is_the_mean_precision_at_each_relevant_item() -> None:
    assert average_precision(RANKED, total_Q=TOTAL) == pytest.approx([(1 + 2 / 3) / 2, 1 / 4])


def test_hit_recall_and_precision_differ_where_they_should() -> None:
    assert hit_at_k(RANKED, k=1).tolist() == [1.0, 0.0]
    assert recall_at_k(RANKED, k=1, total_Q=TOTAL).tolist() == [0.5, 0.0]
    assert precision_at_k(RANKED, k=4).tolist() == [0.5, 0.25]
    assert reciprocal_rank(RANKED).tolist() == [1.0, 0.25]


def test_the_curve_interpolates_to_the_best_precision_at_that_recall_or_above() -> None:
    level, precision = precision_recall_curve(RANKED[:1], points=3)
    assert level.tolist() == [0.0, 0.5, 1.0]
    assert precision == pytest.approx([1.0, 1.0, 2 / 3])


def test_ties_keep_the_order_of_the_items() -> None:
    assert sort_relevance(np.zeros((1, 3)), np.array([[False, True, False]])).tolist() == [[False, True, False]]


def test_a_better_grade_further_up_gains_more() -> None:
    grade = np.array([[3, 0, 2], [0, 2, 3], [0, 0, 0]])
    best = 3 + 2 / np.log2(3)
    expected = [(3 + 2 / 2) / best, (2 / np.log2(3) + 3 / 2) / best, 0.0]
    assert ndcg_at_k(grade, k=3) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_graded_gain_agrees_with_pytrec_eval(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.permuted(np.tile(np.arange(40.0), (8, 1)), axis=1)
    grade = rng.integers(0, 4, (8, 40)) * (rng.random((8, 40)) < 0.4)
    qrels = {f"q{q}": {f"d{n}": int(grade[q, n]) for n in range(40)} for q in range(8)}
    run = {f"q{q}": {f"d{n}": float(score[q, n]) for n in range(40)} for q in range(8)}
    oracle = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10"}).evaluate(run)
    expected = [oracle[f"q{q}"]["ndcg_cut_10"] for q in range(8)]
    assert ndcg_at_k(sort_relevance(score, grade), k=10) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_metrics_agree_with_pytrec_eval(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.permuted(np.tile(np.arange(60.0), (8, 1)), axis=1)
    relevant = rng.random((8, 60)) < 0.15
    relevant[:, 0] = True
    qrels = {f"q{q}": {f"d{n}": int(relevant[q, n]) for n in range(60)} for q in range(8)}
    run = {f"q{q}": {f"d{n}": float(score[q, n]) for n in range(60)} for q in range(8)}
    names = {"map", "recip_rank", "P_10", "recall_10", "success_10"}
    oracle = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
    ranked, total = sort_relevance(score, relevant), relevant.sum(1)
    ours = {
        "map": average_precision(ranked, total_Q=total),
        "recip_rank": reciprocal_rank(ranked),
        "P_10": precision_at_k(ranked, k=10),
        "recall_10": recall_at_k(ranked, k=10, total_Q=total),
        "success_10": hit_at_k(ranked, k=10),
    }
    for name, values in ours.items():
        assert values == pytest.approx([oracle[f"q{q}"][name] for q in range(8)], abs=1e-6), name
