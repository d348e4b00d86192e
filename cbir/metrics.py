"""How well a ranking answers its queries: pure array functions.

Shapes: Q queries, N items. Relevance comes in rank order: column 0 is what was ranked first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def encode_labels(labels: Sequence[Sequence[str]]) -> np.ndarray:
    """Labels of each item as float32 (N, L), 1 where it has the label; one empty column if there are none."""
    names = {name: n for n, name in enumerate(sorted({name for row in labels for name in row}))}
    label_NL = np.zeros((len(labels), max(len(names), 1)), np.float32)
    for n, row in enumerate(labels):
        label_NL[n, [names[name] for name in row]] = 1
    return label_NL


def share_labels(label_NL: np.ndarray) -> np.ndarray:
    """Which other items share a label with each item, bool (N, N); no item with itself."""
    return (label_NL @ label_NL.T > 0) & ~np.eye(len(label_NL), dtype=bool)


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


def find_best(history: Sequence[Mapping[str, float]]) -> int:
    """The epoch of a training history that did best on validation, the first one of equals; 0 before the first.

    Where nothing was found on validation, or there was nothing to find, it is the last.
    """
    best = max(history, key=lambda row: row["validation"], default={"epoch": 0, "validation": 1.0})
    return int(best["epoch"] if best["validation"] > 0 else history[-1]["epoch"])
