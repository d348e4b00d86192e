"""Which epoch of a training did best on validation items, by the history that it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def find_best(history: Sequence[Mapping[str, float]]) -> int:
    """The epoch of a training history that did best on validation, the first one of equals; 0 before the first.

    Where nothing was found on validation, or there was nothing to find, it is the last.
    """
    best = max(history, key=lambda row: row["validation"], default={"epoch": 0, "validation": 1.0})
    return int(best["epoch"] if best["validation"] > 0 else history[-1]["epoch"])
