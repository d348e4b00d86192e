"""How one system answers one query set, how sure its figures are, and by how much they are above another's.

Shapes: Q queries, P points of a curve.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cbir.statistics import Comparison, compare_systems, find_interval

QUERY_SETS = (
    "text_to_image",
    "image_to_text",
    "copy",
    "label",
    "label_name",
    "duplicate",
    "relative",
    "relative_indexed",
)
SYSTEMS = (
    "fused",
    "fused_both",
    "fused_image",
    "fused_text",
    "fused_sum",
    "image_only",
    "text_only",
    "sum",
    "bm25",
    "histogram",
    "lbp",
    "gabor",
    "orb",
)
FIGURES, FIGURES_AT_K = ("map", "mrr"), ("hit", "recall", "precision", "ndcg")
FUSED = ("fused_both", "fused")  # the system that is compared with all others of its query set
KEY_FIGURES = ("map", "hit@1", "hit@10")  # what is shown where there is room for few
Intervals = dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Id, cluster, figures (``map``, ``hit@1``, ...) and precision at levels of recall of each query."""

    query_set: str
    system: str
    ids: Sequence[str]
    cluster_Q: np.ndarray
    figures: dict[str, np.ndarray] = field(repr=False)
    precision_QP: np.ndarray = field(repr=False)


def find_intervals(answers: Answers, names: Iterable[str], *, seed: int, part: str = "") -> Intervals:
    """``low`` and ``high`` of the mean of the named figures; ``part`` names what the queries are a part of."""
    rng = _seed(seed, answers.query_set, answers.system, part)
    found = {name: find_interval(answers.figures[name], answers.cluster_Q, rng=rng) for name in names}
    return {name: {"low": low, "high": high} for name, (low, high) in found.items()}


def compare_answers(ours: Answers, theirs: Answers, *, seed: int) -> Comparison:
    """By how much a system's mean average precision is above that of another, which answered the same queries."""
    rng = _seed(seed, ours.query_set, ours.system, theirs.system)
    return compare_systems(ours.figures["map"], theirs.figures["map"], ours.cluster_Q, rng=rng)


def select_queries(answers: Answers, rows: np.ndarray) -> Answers:
    """The given queries alone."""
    return Answers(
        query_set=answers.query_set,
        system=answers.system,
        ids=[answers.ids[row] for row in rows],
        cluster_Q=answers.cluster_Q[rows],
        figures={name: value_Q[rows] for name, value_Q in answers.figures.items()},
        precision_QP=answers.precision_QP[rows],
    )


def find_fused(systems: Iterable[str]) -> str | None:
    """The encoder's own system among those of a query set."""
    there = set(systems)
    return next((name for name in FUSED if name in there), None)


def _seed(seed: int, *names: str) -> np.random.Generator:
    """Random numbers of its own for everything that has a name: one more system changes no other's interval."""
    return np.random.default_rng([seed, *map(ord, "/".join(names))])
