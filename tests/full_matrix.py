"""The figures of a ranking from a whole matrix of scores, sorted: what the figures from ranks are checked against.

Shapes: Q queries, N items. Relevance comes in rank order: column 0 is what was ranked first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def measure_run(score_QN: np.ndarray, grade_QN: np.ndarray, *, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Every figure of every query that has something relevant, by its name; ``grade_QN`` may be bool."""
    graded_QN = sort_relevance(score_QN, grade_QN)
    ranked_QN = graded_QN > 0
    total_Q = ranked_QN.sum(axis=1)
    figures = {"map": average_precision(ranked_QN, total_Q=total_Q), "mrr": reciprocal_rank(ranked_QN)}
    for k in ks:
        figures[f"hit@{k}"] = hit_at_k(ranked_QN, k=k)
        figures[f"recall@{k}"] = recall_at_k(ranked_QN, k=k, total_Q=total_Q)
        figures[f"precision@{k}"] = precision_at_k(ranked_QN, k=k)
        figures[f"ndcg@{k}"] = ndcg_at_k(graded_QN, k=k)
    return figures


def sort_relevance(score_QN: np.ndarray, relevant_QN: np.ndarray) -> np.ndarray:
    """Relevance (bool, or grades) in order of falling score; ties by index, so that equal runs are equal."""
    order_QN = np.argsort(-score_QN, axis=1, kind="stable")
    return np.take_along_axis(relevant_QN, order_QN, axis=1)


def hit_at_k(ranked_QN: np.ndarray, *, k: int) -> np.ndarray:
    """Per query, 1.0 where anything relevant is among the first ``k``."""
    return np.asarray(ranked_QN[:, :k].any(axis=1).astype(np.float64))


def average_precision(ranked_QN: np.ndarray, *, total_Q: np.ndarray) -> np.ndarray:
    """Per query, the mean of the precision at each relevant item; 0 where none is relevant."""
    found_QN = np.cumsum(ranked_QN, axis=1)
    precision_QN = found_QN / np.arange(1, ranked_QN.shape[1] + 1)
    return (precision_QN * ranked_QN).sum(axis=1) / np.maximum(total_Q, 1)


def precision_at_k(ranked_QN: np.ndarray, *, k: int) -> np.ndarray:
    """Per query, the share of the first ``k`` that is relevant (divided by ``k`` even if fewer items exist)."""
    return ranked_QN[:, :k].sum(axis=1) / k


def recall_at_k(ranked_QN: np.ndarray, *, k: int, total_Q: np.ndarray) -> np.ndarray:
    """Per query, the share of all relevant items that is among the first ``k``; 0 where none is relevant."""
    return ranked_QN[:, :k].sum(axis=1) / np.maximum(total_Q, 1)


def reciprocal_rank(ranked_QN: np.ndarray) -> np.ndarray:
    """Per query, 1 / rank of the first relevant item; 0 where none is."""
    return np.where(ranked_QN.any(axis=1), 1.0 / (ranked_QN.argmax(axis=1) + 1), 0.0)


def ndcg_at_k(grade_QN: np.ndarray, *, k: int) -> np.ndarray:
    """Per query, the discounted gain of the first ``k`` over that of the best order; 0 where nothing is relevant.

    ``grade_QN`` holds every item's grade in rank order; the gain is the grade, the discount log2(rank + 1), as in
    trec_eval (Järvelin & Kekäläinen 2002).
    """
    discount = 1 / np.log2(np.arange(2, min(k, grade_QN.shape[1]) + 2))
    found_Q = grade_QN[:, :k] @ discount
    best_Q = -np.sort(-grade_QN.astype(np.float64), axis=1)[:, :k] @ discount
    return np.asarray(found_Q / np.where(best_Q > 0, best_Q, 1.0))


def precision_recall_curve(ranked_QN: np.ndarray, *, points: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Recall levels and interpolated precision at each, averaged over queries that have something relevant."""
    ranked_QN = ranked_QN[ranked_QN.any(axis=1)]
    level = np.linspace(0.0, 1.0, points)
    found_QN = np.cumsum(ranked_QN, axis=1)
    precision_QN = found_QN / np.arange(1, ranked_QN.shape[1] + 1)
    best_QN = np.maximum.accumulate(precision_QN[:, ::-1], axis=1)[:, ::-1]
    recall_QN = found_QN / found_QN[:, -1:]
    at = np.array([(recall_QN >= r - 1e-12).argmax(axis=1) for r in level])
    return level, np.take_along_axis(best_QN, at.T, axis=1).mean(axis=0)
