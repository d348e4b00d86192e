"""Figures from ranks against values by hand, against the whole sorted matrix, and against pytrec_eval."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
from full_matrix import measure_run, precision_recall_curve, sort_relevance
from hypothesis import given, settings
from hypothesis import strategies as st

from cbir import ranks
from cbir.errors import TrainingError
from cbir.ranks import Qrels, count_ranks, list_levels, measure_queries, measure_ranks, pack_qrels, score_vectors

KS = (1, 5, 10)


def draw_run(rng: np.random.Generator, *, queries: int, items: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of few different values, so many ties, and grades 0 to 3 with something relevant to every query."""
    score_QN = rng.integers(0, values, (queries, items)).astype(np.float32)
    grade_QN = rng.integers(1, 4, (queries, items)) * (rng.random((queries, items)) < 0.2)
    grade_QN[np.arange(queries), rng.integers(0, items, queries)] = 2
    return score_QN, grade_QN


def test_a_rank_counts_what_scores_higher_and_what_ties_earlier() -> None:
    score_QN = np.array([[0.5, 0.9, 0.5, 0.1, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0]], np.float32)
    grade_QN = np.array([[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]])
    assert count_ranks(score_QN, pack_qrels(grade_QN)).tolist() == [3, 5, 1, 5]


def test_figures_of_two_ranks_are_those_worked_out_by_hand() -> None:
    qrels = Qrels(np.array([0, 2]), np.array([0, 1]), np.array([1.0, 3.0]))  # graded 1, and 3: ranks 2 and 4
    measured = measure_ranks(np.array([2, 4]), qrels, ks=(3,))
    expected = {
        "map": (1 / 2 + 2 / 4) / 2,
        "mrr": 1 / 2,
        "hit@3": 1,
        "recall@3": 1 / 2,
        "precision@3": 1 / 3,
        "ndcg@3": (1 / np.log2(3)) / (3 / np.log2(2) + 1 / np.log2(3)),
    }
    assert {name: value_Q[0] for name, value_Q in measured.figures.items()} == pytest.approx(expected)
    assert measured.precision_QP[0] == pytest.approx([0.5] * 11)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    items=st.integers(1, 60),
    values=st.integers(1, 40),
    many=st.sampled_from([0, 2, 99]),
)
def test_ranks_are_those_of_the_whole_sorted_matrix(seed: int, items: int, values: int, many: int) -> None:
    score_QN, grade_QN = draw_run(np.random.default_rng(seed), queries=5, items=items, values=values)
    qrels = pack_qrels(grade_QN)
    expected = np.argsort(np.argsort(-score_QN, axis=1, kind="stable"), axis=1)[grade_QN > 0] + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "SMALL", 0)  # count even among few items, and sort above ``many``
        patch.setattr(ranks, "MANY", many)
        assert count_ranks(score_QN, qrels).tolist() == expected.tolist()
    assert count_ranks(score_QN, qrels).tolist() == expected.tolist()


@pytest.mark.parametrize("block", [1, 3, 1024])
def test_blocks_of_queries_give_the_figures_of_the_whole_sorted_matrix(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    query_QD, item_ND = (rng.integers(-3, 4, (n, 8)).astype(np.float32) for n in (10, 90))  # exact products, with ties
    _, grade_QN = draw_run(rng, queries=10, items=90, values=2)
    monkeypatch.setattr(ranks, "BLOCK_QUERIES", block)
    judge = lambda start, stop: pack_qrels(grade_QN[start:stop])  # noqa: E731
    measured = measure_queries(score_vectors(query_QD, item_ND), judge, queries=10, items=90, ks=KS)
    whole = query_QD @ item_ND.T
    for name, value_Q in measure_run(whole, grade_QN, ks=KS).items():
        assert measured.figures[name] == pytest.approx(value_Q, abs=1e-12), name
    level, precision = precision_recall_curve(sort_relevance(whole, grade_QN) > 0)
    assert list_levels().tolist() == level.tolist()
    assert measured.precision_QP.mean(axis=0) == pytest.approx(precision, abs=1e-12)


def test_a_thousand_runs_with_ties_and_grades_agree_with_pytrec_eval() -> None:
    """trec_eval breaks ties by document id, the later first: item n is named so that the earlier item comes first."""
    names = {"map", "recip_rank"} | {f"{name}_{k}" for name in ("success", "recall", "P", "ndcg_cut") for k in KS}
    ours = {"map": "map", "recip_rank": "mrr"}
    ours |= {f"{theirs}_{k}": f"{name}@{k}" for k in KS for theirs, name in
             (("success", "hit"), ("recall", "recall"), ("P", "precision"), ("ndcg_cut", "ndcg"))}  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(1000):
        items = int(rng.integers(1, 40))
        score_QN, grade_QN = draw_run(rng, queries=2, items=items, values=int(rng.integers(1, 50)))
        ids = [f"d{items - n:03d}" for n in range(items)]
        qrels = {str(q): {ids[n]: int(grade) for n, grade in enumerate(row)} for q, row in enumerate(grade_QN)}
        run = {str(q): dict(zip(ids, row, strict=True)) for q, row in enumerate(score_QN.tolist())}
        oracle = pytrec_eval.RelevanceEvaluator(qrels, names).evaluate(run)
        packed = pack_qrels(grade_QN)
        figures = measure_ranks(count_ranks(score_QN, packed), packed, ks=KS).figures
        for theirs, name in ours.items():
            assert figures[name] == pytest.approx([oracle[str(q)][theirs] for q in range(2)], abs=1e-6), name


def test_scores_that_are_not_numbers_are_no_perfect_answer() -> None:
    score_QN = np.full((1, 3), np.nan, np.float32)
    with pytest.raises(TrainingError, match=r"lower train\.learning_rate"):
        count_ranks(score_QN, pack_qrels(np.array([[0, 1, 0]])))


def test_a_query_without_anything_relevant_is_a_mistake_of_ours() -> None:
    qrels = Qrels(start_Q1=np.array([0, 1, 1]), grade_J=np.ones(1), item_J=np.zeros(1, int))
    with pytest.raises(AssertionError, match="nothing relevant"):
        measure_ranks(np.array([1]), qrels, ks=[1])
