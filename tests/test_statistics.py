"""Intervals hold what they promise, and equal systems are rarely called different."""

from __future__ import annotations

import numpy as np
import pytest

from cbir.statistics import compare_systems, count_more, find_interval, judge_non_inferiority, judge_superiority

ALONE = np.arange(100)


def test_the_interval_of_many_queries_is_that_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    value_Q = rng.normal(3.0, 2.0, 4000)
    low, high = find_interval(value_Q, np.arange(4000), rng=rng)
    half = 1.96 * value_Q.std() / 4000**0.5
    assert (low, high) == (
        pytest.approx(value_Q.mean() - half, abs=0.006),
        pytest.approx(value_Q.mean() + half, abs=0.006),
    )


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = [find_interval(rng.normal(0.5, 1.0, 100), ALONE, rng=rng) for _ in range(200)]
    assert 0.90 <= np.mean([low <= 0.5 <= high for low, high in found]) <= 0.99


def test_copies_of_a_query_make_the_mean_no_surer() -> None:
    value_Q = np.random.default_rng(2).normal(size=100)
    one = find_interval(value_Q, ALONE, rng=np.random.default_rng(3))
    many = find_interval(np.repeat(value_Q, 20), np.repeat(ALONE, 20), rng=np.random.default_rng(3))
    assert many == pytest.approx(one)


def test_a_single_cluster_has_an_interval_without_width() -> None:
    assert find_interval(np.array([0.0, 1.0]), np.array([7, 7]), rng=np.random.default_rng(0)) == (0.5, 0.5)


def test_at_most_a_twentieth_of_equal_pairs_is_called_better() -> None:
    rng = np.random.default_rng(4)
    found = [compare_systems(*rng.normal(size=(2, 100)), ALONE, rng=rng) for _ in range(200)]
    assert np.mean([one.low > 0 for one in found]) <= 0.05
    assert np.mean([one.p_value < 0.05 for one in found]) <= 0.10


def test_a_better_system_is_found_and_by_how_much() -> None:
    rng = np.random.default_rng(5)
    theirs_Q = rng.random(300)
    found = compare_systems(theirs_Q + 0.1 + rng.normal(0, 0.1, 300), theirs_Q, np.arange(300), rng=rng)
    assert found.low < 0.1 < found.high
    assert found.low > 0.08
    assert found.p_value < 0.01


def test_the_worse_of_two_systems_has_a_difference_below_zero() -> None:
    ours_Q, theirs_Q = np.zeros(50), np.ones(50)
    found = compare_systems(ours_Q, theirs_Q, np.arange(50), rng=np.random.default_rng(0))
    assert (found.difference, found.low, found.high) == (-1.0, -1.0, -1.0)


def draw_equals(seed: int, *, metrics: int, clusters: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Differences of two equally good systems on several correlated metrics; 1 to 3 variants of a query a cluster."""
    rng = np.random.default_rng(seed)
    cluster_Q = np.repeat(np.arange(clusters), rng.integers(1, 4, clusters))
    shared_C, own_MC = rng.normal(size=clusters), rng.normal(size=(metrics, clusters))
    noise_MQ = rng.normal(size=(metrics, len(cluster_Q)))
    return [0.1 * (shared_C + own_C)[cluster_Q] + 0.1 * e for own_C, e in zip(own_MC, noise_MQ, strict=True)], cluster_Q


@pytest.mark.parametrize("metrics", [1, 3])
def test_of_200_equal_pairs_at_most_5_percent_are_superior_on_any_metric(metrics: int) -> None:
    lucky, rng = 0, np.random.default_rng(10_000)
    for seed in range(200):
        differences, cluster_Q = draw_equals(seed, metrics=metrics, clusters=60)
        lucky += any(
            judge_superiority(d_Q, cluster_Q, margin=0.02, tries=metrics, rng=rng).verdict == "pass"
            for d_Q in differences
        )
    assert lucky <= 10, lucky


def test_without_the_correction_equal_pairs_pass_too_often() -> None:
    lucky, rng = 0, np.random.default_rng(10_000)
    for seed in range(100):
        differences, cluster_Q = draw_equals(seed, metrics=8, clusters=60)
        lucky += any(judge_superiority(d_Q, cluster_Q, margin=0.02, rng=rng).verdict == "pass" for d_Q in differences)
    assert lucky > 5, lucky


@pytest.mark.parametrize(
    ("shift", "non_inferior", "superior"),
    [(0.1, "pass", "pass"), (0.0, "pass", "fail"), (-0.1, "fail", "fail"), (-0.02, "inconclusive", "fail")],
)
def test_a_better_system_passes_an_equal_one_is_no_better_and_a_worse_one_fails(
    shift: float, non_inferior: str, superior: str
) -> None:
    d_Q = np.random.default_rng(4).normal(0.0, 0.1, 1000)
    d_Q += shift - d_Q.mean()
    rng = np.random.default_rng(5)
    clusters = np.arange(1000)
    assert judge_non_inferiority(d_Q, clusters, margin=0.02, rng=rng).verdict == non_inferior
    assert judge_superiority(d_Q, clusters, margin=0.02, rng=rng).verdict == superior


def test_few_queries_are_inconclusive_and_as_many_more_as_it_says_settle_it() -> None:
    rng = np.random.default_rng(6)
    shape_Q = rng.normal(0.0, 1.0, 4000)

    def judge(clusters: int) -> tuple[str, int | None]:
        d_Q = 0.02 + 0.2 * (shape_Q[:clusters] - shape_Q[:clusters].mean()) / shape_Q[:clusters].std()
        found = judge_superiority(d_Q, np.arange(clusters), margin=0.02, rng=rng)
        return found.verdict, found.more_clusters

    verdict, more = judge(100)
    assert verdict == "inconclusive"
    assert more == pytest.approx(100 * (1.96 * 0.02 / 0.02) ** 2 - 100, rel=0.1)
    assert judge(100 + int(1.2 * more)) == ("pass", None)


def test_no_number_of_queries_is_promised_where_the_mean_itself_is_below_the_bar() -> None:
    assert count_more(-0.03, -0.2, clusters=50, bar=-0.02) is None
    assert count_more(0.1, -0.1, clusters=50, bar=0.0) == 150


def test_a_single_cluster_compares_nothing() -> None:
    found = compare_systems(np.array([0.5, 1.0]), np.zeros(2), np.array([3, 3]), rng=np.random.default_rng(0))
    assert (found.difference, found.low, found.high, found.p_value) == (0.75, 0.75, 0.75, 1.0)
    assert found.clusters == 1


def test_a_comparison_says_on_how_many_clusters_it_was_made() -> None:
    cluster_Q = np.repeat(np.arange(40), 5)
    assert compare_systems(np.ones(200), np.zeros(200), cluster_Q, rng=np.random.default_rng(0)).clusters == 40
