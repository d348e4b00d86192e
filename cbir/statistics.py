"""How sure a mean over queries is, and whether one system answers them better than another: pure array functions.

Queries that are variants of one another (a cluster: near duplicates, the skin tones of one emoji) are not independent:
clusters are resampled whole, not queries (Field & Welsh 2007, Bootstrapping clustered data).

Shapes: Q queries, C clusters, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
FINE = 10_000  # resamples where a decision hangs on a far tail
CELLS = 2**18  # of resampled clusters at once: 2 MB, which a processor keeps near
Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Comparison:
    """Mean of one system less that of another: with its interval, and how likely so large a one is by chance."""

    difference: float
    low: float
    high: float
    p_value: float


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
    return find_joint_intervals([value_Q], cluster_Q, rng=rng, level=level, resamples=resamples)[0]


def find_joint_intervals(
    values: Sequence[np.ndarray],
    cluster_Q: np.ndarray,
    *,
    rng: np.random.Generator,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> list[tuple[float, float]]:
    """The same of several figures of the same queries, float (Q,) each, over the same resampled clusters."""
    if not len(values) or len(np.unique(cluster_Q)) < 2:
        return [(float(value_Q.mean()), float(value_Q.mean())) for value_Q in values]
    totals, counts = zip(*(_sum_clusters(value_Q, cluster_Q) for value_Q in values), strict=True)
    clusters, parts = len(counts[0]), []
    for rows in _cut_resamples(resamples, clusters):
        draw_RC = rng.integers(0, clusters, (rows, clusters))
        count_R = counts[0][draw_RC].sum(axis=1)
        parts.append(np.stack([total_C[draw_RC].sum(axis=1) / count_R for total_C in totals]))
    tail = (1 - level) / 2
    ends = stats.quantile(np.concatenate(parts, axis=1), np.array([tail, 1 - tail]), axis=1)
    return [(float(low), float(high)) for low, high in ends]


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
    return Comparison(float(difference_Q.mean()), low, high, _test_swaps(total_C, rng=rng))


def _test_swaps(total_C: np.ndarray, *, rng: np.random.Generator) -> float:
    """The p-value of the sum: how often it is as far from 0 where each cluster's sign is up to chance.

    Of few clusters every choice of signs is tried.
    """
    clusters = len(total_C)
    exact = 2**clusters <= RESAMPLES
    if exact:
        every = np.arange(2**clusters)[:, None] >> np.arange(clusters)
        sum_R = _flip(total_C, every)
    else:
        blocks = _cut_resamples(RESAMPLES, clusters)
        draws = (rng.integers(2**32, size=(rows, clusters), dtype=np.uint32) for rows in blocks)
        sum_R = np.concatenate([_flip(total_C, draw_RC) for draw_RC in draws])
    observed = total_C.sum()
    slack = abs(100 * np.finfo(float).eps * observed)  # of equal sums in another order
    less, more = np.sum(sum_R <= observed + slack), np.sum(sum_R >= observed - slack)
    own = 0 if exact else 1  # what was observed is one of the choices
    return float(min(2 * (min(less, more) + own) / (len(sum_R) + own), 1.0))


def _flip(total_C: np.ndarray, draw_RC: np.ndarray) -> np.ndarray:
    """Sums, float64 (R,), where the lowest bit of what was drawn says which clusters keep their sign."""
    return np.asarray(np.where(draw_RC & 1, total_C, -total_C).sum(axis=1))


def _cut_resamples(resamples: int, clusters: int) -> Iterator[int]:
    """How many resamples to have in memory at once, time after time."""
    rows = max(1, CELLS // clusters)
    yield from (min(rows, resamples - start) for start in range(0, resamples, rows))


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
