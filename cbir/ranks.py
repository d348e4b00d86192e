"""At which rank each query finds what is relevant to it, and every figure that follows from the ranks.

A rank is the number of items that score higher, and of those of equal score that come earlier, plus one: counting it
needs no sorting. Scores are asked for a block of queries at a time, so that memory does not grow with their number.

Shapes: Q queries (B of one block), N items, J judgements (of all queries, those of one query beside each other),
P points of a curve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cbir.errors import TrainingError
from cbir.similarity import Similarity, compare_vectors

SMALL = 4096  # items; below it sorting all of them is faster than counting for each relevant one, as it is
MANY = 256  # above so many relevant ones
BLOCK_SCORES = 1 << 26  # 256 MiB of float32
BLOCK_QUERIES = 1024
POINTS = 11


@dataclass(frozen=True)
class Qrels:
    """What is relevant to each query: ``item_J[start_Q1[q]:start_Q1[q + 1]]``, ascending, with grades over 0."""

    start_Q1: np.ndarray
    item_J: np.ndarray
    grade_J: np.ndarray


@dataclass(frozen=True)
class Measured:
    """Figures of every query by their name, float64 (Q,), and its interpolated precision at levels of recall (Q, P)."""

    figures: dict[str, np.ndarray]
    precision_QP: np.ndarray


ScoreRows = Callable[[int, int], np.ndarray]  # queries from, to -> scores (B, N) that may be written to
JudgeRows = Callable[[int, int], Qrels]  # queries from, to -> what is relevant to each, at least one item


def pack_qrels(grade_QN: np.ndarray) -> Qrels:
    """Grades of every item (bool or numbers, 0 is not relevant) as those that are relevant alone."""
    query_J, item_J = np.nonzero(grade_QN)
    start_Q1 = np.concatenate([[0], np.cumsum(np.bincount(query_J, minlength=len(grade_QN)))])
    return Qrels(start_Q1, item_J, grade_QN[query_J, item_J].astype(np.float64))


def score_vectors(query_QD: np.ndarray, item_ND: np.ndarray, similarity: Similarity = "cosine") -> ScoreRows:
    """Scores of vectors, a block at a time; for the cosine they are of unit length."""
    return lambda start, stop: compare_vectors(query_QD[start:stop], item_ND, similarity)


def measure_queries(score: ScoreRows, judge: JudgeRows, *, queries: int, items: int, ks: Sequence[int]) -> Measured:
    """Figures of every query: ``map`` (average precision), ``mrr``, and hit, recall, precision and ndcg at each k.

    Raises:
        TrainingError: the score of a relevant item is not a number.
    """
    block = max(1, min(BLOCK_QUERIES, BLOCK_SCORES // items))
    parts = []
    for start in range(0, queries, block):
        stop = min(start + block, queries)
        qrels = judge(start, stop)
        parts.append(measure_ranks(count_ranks(score(start, stop), qrels), qrels, ks=ks))
    figures = {name: np.concatenate([part.figures[name] for part in parts]) for name in parts[0].figures}
    return Measured(figures, np.concatenate([part.precision_QP for part in parts]))


def count_ranks(score_BN: np.ndarray, qrels: Qrels) -> np.ndarray:
    """Rank of every relevant item among the scores of its query, int (J,), 1 is first; ties by index.

    Raises:
        TrainingError: the score of a relevant item is not a number.
    """
    rank_J = np.empty(len(qrels.item_J), np.int64)
    for score_N, start, stop in zip(score_BN, qrels.start_Q1, qrels.start_Q1[1:], strict=False):
        relevant = qrels.item_J[start:stop]
        if np.isnan(score_N[relevant]).any():
            raise TrainingError("The scores are not numbers: training diverged; lower train.learning_rate.")
        sort = len(score_N) < SMALL or len(relevant) > MANY
        rank_J[start:stop] = _sort(score_N, relevant) if sort else _count(score_N, relevant)
    return rank_J


def _count(score_N: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    higher = [
        1 + np.count_nonzero(score_N[:item] >= score_N[item]) + np.count_nonzero(score_N[item + 1 :] > score_N[item])
        for item in relevant
    ]
    return np.array(higher)


def _sort(score_N: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    rank_N = np.empty(len(score_N), np.int64)
    rank_N[np.argsort(-score_N, kind="stable")] = np.arange(1, len(score_N) + 1)
    return rank_N[relevant]


def measure_ranks(rank_J: np.ndarray, qrels: Qrels, *, ks: Sequence[int]) -> Measured:
    """Figures from the ranks of what is relevant, of queries that each have something relevant.

    nDCG has the grade as gain and log2(rank + 1) as discount, as trec_eval does (Järvelin & Kekäläinen 2002).
    """
    first_Q, total_Q = qrels.start_Q1[:-1], np.diff(qrels.start_Q1)
    assert (total_Q > 0).all(), "a query has nothing relevant"
    query_J = np.repeat(np.arange(len(total_Q)), total_Q)
    order_J = np.lexsort((rank_J, query_J))
    rank_J, grade_J = rank_J[order_J], qrels.grade_J[order_J]
    best_J = qrels.grade_J[np.lexsort((-qrels.grade_J, query_J))]
    nth_J = np.arange(len(rank_J)) - first_Q[query_J] + 1
    precision_J = nth_J / rank_J

    def add(value_J: np.ndarray) -> np.ndarray:
        return np.asarray(np.add.reduceat(value_J, first_Q))

    figures = {"map": add(precision_J) / total_Q, "mrr": 1 / rank_J[first_Q]}
    for k in ks:
        found_Q = add((rank_J <= k).astype(np.float64))
        figures[f"hit@{k}"] = np.minimum(found_Q, 1.0)
        figures[f"recall@{k}"] = found_Q / total_Q
        figures[f"precision@{k}"] = found_Q / k
        ideal_Q = add(np.where(nth_J <= k, best_J / np.log2(nth_J + 1), 0.0))
        figures[f"ndcg@{k}"] = add(np.where(rank_J <= k, grade_J / np.log2(rank_J + 1), 0.0)) / ideal_Q
    recall_J = nth_J / total_Q[query_J]
    points = [
        np.maximum.reduceat(np.where(recall_J >= level - 1e-12, precision_J, 0.0), first_Q) for level in list_levels()
    ]
    return Measured(figures, np.stack(points, axis=1))


def list_levels() -> np.ndarray:
    """The levels of recall at which a curve says the precision."""
    return np.linspace(0.0, 1.0, POINTS)
