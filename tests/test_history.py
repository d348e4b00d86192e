"""The epoch is chosen by retrieval, the first one of equals."""

from __future__ import annotations

from typing import Any

from cbir.history import find_best


def history(*validation: float) -> list[dict[str, Any]]:
    return [{"epoch": n, "loss": 9.0 - n, "validation": value} for n, value in enumerate(validation)]


def test_the_best_epoch_is_the_one_that_retrieves_best_however_its_loss() -> None:
    assert find_best(history(0.2, 0.9, 0.5)) == 1


def test_of_equal_epochs_the_first_one_is_chosen_so_that_a_plateau_ends_training() -> None:
    assert find_best(history(0.2, 0.9, 0.9, 0.1)) == 1


def test_where_validation_tells_nothing_the_last_epoch_is_chosen() -> None:
    assert find_best(history(0.0, 0.0, 0.0)) == 2
    assert find_best([]) == 0
