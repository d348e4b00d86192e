"""How a call is timed: torch's own benchmark timer, which warms up, repeats and gives a median and a spread."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.benchmark import Measurement, Timer

LEAST_SECONDS = 3.0


def time_call(call: Callable[[], object]) -> Measurement:
    """Time ``call`` for at least three seconds; torch keeps the threads it has."""
    call()
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=LEAST_SECONDS)


def time_in_turns(
    ours: Callable[[], object], theirs: Callable[[], object], *, turns: int = 5
) -> tuple[Measurement, Measurement]:
    """Time two calls in turns, so that what else the machine does meets both."""
    pairs = [(time_call(ours), time_call(theirs)) for _ in range(turns)]
    first, second = (Measurement.merge(list(part))[0] for part in zip(*pairs, strict=True))
    return first, second


def format_time(measured: Measurement) -> str:
    """Median and interquartile range in milliseconds."""
    return f"{1000 * measured.median:.1f} ms (IQR {1000 * measured.iqr:.1f})"


def format_rate(measured: Measurement, *, images: int) -> str:
    """Images a second at the median."""
    return f"{images / measured.median:.1f} images/s (median of {len(measured.times)})"
