"""How sure a mean over queries is, and whether one system answers them better than another: pure array functions.

Queries that are variants of one another (a cluster: near duplicates, the skin tones of one emoji) are not independent:
clusters are resampled whole, not queries (Field & Welsh 2007, Bootstrapping clustered data).

Shapes: Q queries, C clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
FINE = 10_000  # resamples where a decision hangs on a far tail
Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Comparison:
    """Mean of one system less that of another: with its interval, and how likely so large a one is by chance.

    ``clusters``: of queries, on which it was measured.
    """

    difference: float
    low: float
    high: float
    p_value: float
    clusters: int


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Whether a mean difference is where it should be, with its interval at ``level``.

    ``more_clusters``: about how many more clusters of queries would settle it; None where it is settled, or where no
    number is expected to.
    """

    verdict: Verdict
    difference: float
    low: float
    high: float
    level: float
    clusters: int
    more_clusters: int | None


def find_interval(
    value_Q: np.ndarray,
    cluster_Q: np.ndarray,
    *,
    rng: np.random.Generator,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean; of one cluster nothing is known but its mean."""
    total_C, count_C = _sum_clusters(value_Q, cluster_Q)
    if len(total_C) < 2:
        return float(value_Q.mean()), float(value_Q.mean())
    found = stats.bootstrap(
        (total_C, count_C),
        lambda total, count, axis: total.sum(axis) / count.sum(axis),
        paired=True,
        vectorized=True,
        batch=200,
        n_resamples=resamples,
        confidence_level=level,
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
        return Comparison(float(difference_Q.mean()), low, high, p_value=1.0, clusters=len(total_C))
    swapped = stats.permutation_test(
        (total_C,),
        lambda total, axis: total.sum(axis),
        permutation_type="samples",
        vectorized=True,
        batch=200,
        n_resamples=RESAMPLES,
        rng=rng,
    )
    return Comparison(float(difference_Q.mean()), low, high, p_value=float(swapped.pvalue), clusters=len(total_C))


def judge_non_inferiority(
    difference_Q: np.ndarray, cluster_Q: np.ndarray, *, margin: float, rng: np.random.Generator, level: float = LEVEL
) -> Judgement:
    """Whether new less old is above ``-margin``: its interval lies above, below, or on both sides.

    Several of these may be asked at once without a correction: all of them must pass (Berger 1982, Multiparameter
    hypothesis testing and acceptance sampling).
    """
    low, high = _find_expanded(difference_Q, cluster_Q, rng=rng, level=level)
    verdict: Verdict = "pass" if low >= -margin else "fail" if high < -margin else "inconclusive"
    return _judge(verdict, difference_Q, cluster_Q, interval=(low, high), level=level, bar=-margin)


def judge_superiority(
    difference_Q: np.ndarray,
    cluster_Q: np.ndarray,
    *,
    margin: float,
    rng: np.random.Generator,
    tries: int = 1,
    level: float = LEVEL,
) -> Judgement:
    """Whether new less old is above 0: pass where its interval is, fail where even its upper end is below ``margin``.

    A gain under ``margin`` is one that nobody would miss, so that an equal system fails and is not "inconclusive" for
    ever. ``tries``: of how many metrics one is enough; the interval is widened so that an equal system passes any of
    them as rarely as one alone (Bonferroni, which for "any of them" is Holm's first step).
    """
    wide = 1 - (1 - level) / tries
    low, high = _find_expanded(difference_Q, cluster_Q, rng=rng, level=wide)
    verdict: Verdict = "pass" if low > 0 else "fail" if high < margin else "inconclusive"
    return _judge(verdict, difference_Q, cluster_Q, interval=(low, high), level=wide, bar=0.0)


def _find_expanded(
    difference_Q: np.ndarray, cluster_Q: np.ndarray, *, rng: np.random.Generator, level: float
) -> tuple[float, float]:
    """The interval, widened as few clusters ask: a percentile bootstrap of 30 is too narrow (Hesterberg 2015)."""
    free = max(len(np.unique(cluster_Q)) - 1, 1)
    tail = stats.norm.sf(math.sqrt((free + 1) / free) * stats.t.isf((1 - level) / 2, free))
    return find_interval(difference_Q, cluster_Q, rng=rng, level=float(1 - 2 * tail), resamples=FINE)


def _judge(
    verdict: Verdict,
    difference_Q: np.ndarray,
    cluster_Q: np.ndarray,
    *,
    interval: tuple[float, float],
    level: float,
    bar: float,
) -> Judgement:
    difference, clusters = float(difference_Q.mean()), len(np.unique(cluster_Q))
    more = count_more(difference, interval[0], clusters=clusters, bar=bar) if verdict == "inconclusive" else None
    return Judgement(
        verdict=verdict,
        difference=difference,
        low=interval[0],
        high=interval[1],
        level=level,
        clusters=clusters,
        more_clusters=more,
    )


def count_more(difference: float, low: float, *, clusters: int, bar: float) -> int | None:
    """About how many more clusters lift the interval's lower end to ``bar``, or None where no number would.

    The distance from the mean to the lower end shrinks with the square root of the number of clusters.
    """
    if difference <= bar:
        return None
    needed = clusters * ((difference - low) / (difference - bar)) ** 2
    return max(math.ceil(needed) - clusters, 1)


def _sum_clusters(value_Q: np.ndarray, cluster_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values, and number of queries, of each cluster, float64 (C,)."""
    _, number_Q = np.unique(cluster_Q, return_inverse=True)
    return np.bincount(number_Q, weights=value_Q), np.bincount(number_Q).astype(np.float64)
