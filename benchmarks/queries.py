"""How long a user waits for an answer: the whole command, and a query to a release that is open already."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from cbir.errors import CbirError
from cbir.search import Searcher
from cbir.workspace import find_workspace

WORDS = ("a red fruit", "a smiling cat", "something to write with", "a flag", "a rainy day")
COLD, WARM = 5, 200
COMMAND = [sys.executable, "-c", "from cbir.cli import main; main()", "query", WORDS[0], "-k", "10"]


def measure_queries() -> list[list[str]]:
    """Cold and warm times against the champion; without one, a row that says how to get it."""
    try:
        workspace = find_workspace()
        searcher = Searcher.open(workspace)
    except CbirError as error:
        return [["query", "not measured", "-", f"{error} `make demo` makes a release."]]
    cold = [_time(lambda: subprocess.run(COMMAND, cwd=workspace, check=True, capture_output=True)) for _ in range(COLD)]
    searcher.query(text=WORDS[0], image=None, k=10)
    texts = itertools.cycle(WORDS)
    warm = [_time(lambda: searcher.query(text=next(texts), image=None, k=10)) for _ in range(WARM)]
    p50, p95 = (1000 * float(np.percentile(warm, q)) for q in (50, 95))
    rows = f"{searcher.rows:,} items"
    return [
        ["cold `cbir-ops query`", f"{np.median(cold):.2f} s (median of {COLD})", "-", f"new process, {rows}"],
        ["warm query", f"p50 {p50:.1f} ms, p95 {p95:.1f} ms", "-", f"{WARM} text queries, {rows}, k 10"],
    ]


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
