"""How sure a mean over queries is, and whether one system answers them better than another: pure array functions.

Queries that are variants of one another (a cluster: near duplicates, the skin tones of one emoji) are not independent:
clusters are resampled whole, not queries (Field & Welsh 2007, Bootstrapping clustered data).

Shapes: Q queries, C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """Mean of one system less that of another: with its interval, and how likely so large a one is by chance."""

    difference: float
    low: float
    high: float
    p_value: float


def find_interval(value_Q: np.ndarray, cluster_Q: np.ndarray, *, rng: np.random.Generator) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean; of one cluster nothing is known but its mean."""
    total_C, count_C = _sum_clusters(value_Q, cluster_Q)
    if len(total_C) < 2:
        return float(value_Q.mean()), float(value_Q.mean())
    found = stats.bootstrap(
        (total_C, count_C),
        lambda total, count, axis: total.sum(axis) / count.sum(axis),
        paired=True,
        vectorized=True,
        batch=200,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=rng,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def compare_systems(
    ours_Q: np.ndarray, theirs_Q: np.ndarray, cluster_Q: np.ndarray, *, rng: np.random.Generator
) -> Comparison:
    """Paired: both systems answered the same queries.

    The interval is a bootstrap over clusters; the p-value that of a two-sided permutation test that swaps the systems
    in whole clusters: 1 where there is one cluster, which tells nothing.
    """
    difference_Q = ours_Q - theirs_Q
    low, high = find_interval(difference_Q, cluster_Q, rng=rng)
    total_C, _ = _sum_clusters(difference_Q, cluster_Q)
    if len(total_C) < 2:
        return Comparison(float(difference_Q.mean()), low, high, 1.0)
    swapped = stats.permutation_test(
        (total_C,),
        lambda total, axis: total.sum(axis),
        permutation_type="samples",
        vectorized=True,
        batch=200,
        n_resamples=RESAMPLES,
        rng=rng,
    )
    return Comparison(float(difference_Q.mean()), low, high, float(swapped.pvalue))


def _sum_clusters(value_Q: np.ndarray, cluster_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values, and number of queries, of each cluster, float64 (C,)."""
    _, number_Q = np.unique(cluster_Q, return_inverse=True)
    return np.bincount(number_Q, weights=value_Q), np.bincount(number_Q).astype(np.float64)
