"""Intervals hold what they promise, and equal systems are rarely called different."""

from __future__ import annotations

import numpy as np
import pytest

from cbir.statistics import compare_systems, find_interval

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


def test_a_single_cluster_compares_nothing() -> None:
    found = compare_systems(np.array([0.5, 1.0]), np.zeros(2), np.array([3, 3]), rng=np.random.default_rng(0))
    assert (found.difference, found.low, found.high, found.p_value) == (0.75, 0.75, 0.75, 1.0)
