"""What the evaluation costs at scale, in seconds and memory: ``python -m benchmarks.scale``, some minutes.

From vectors to the mean figures, each run in a process of its own: ours; and pytrec_eval on scores of the same vectors,
a few queries at a time, because its dictionaries of all of them would not fit.

Shapes: Q queries, N items, D dimensions.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np

from cbir.ranks import Qrels, measure_queries, score_vectors

DIMENSIONS, RELEVANT = 512, 20
KS = (1, 5, 10)
NAMES = {"map", "recip_rank"} | {f"{name}_{k}" for name in ("success", "recall", "P", "ndcg_cut") for k in KS}
THEIR_BLOCK = 50  # queries
CASES = (  # queries and items in memory; how many queries ours, and pytrec_eval, answers
    (10_000, 100_000, 10_000, 200),
    (100_000, 1_000_000, 2048, 0),
)


def draw_vectors(queries: int, items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query and item vectors, and the relevant items of each query, int (Q, 20), ascending."""
    rng = np.random.default_rng(0)
    query_QD, item_ND = (rng.standard_normal((rows, DIMENSIONS), np.float32) for rows in (queries, items))
    return (
        query_QD,
        item_ND,
        np.sort(rng.integers(0, items // RELEVANT, (queries, RELEVANT)), axis=1) * RELEVANT + (np.arange(RELEVANT)),
    )


def run_ours(queries: int, items: int, asked: int) -> dict[str, float]:
    """Means over the first ``asked`` queries; vectors and judgements of all are in memory."""
    query_QD, item_ND, relevant_QR = draw_vectors(queries, items)

    def judge(start: int, stop: int) -> Qrels:
        flat_J = relevant_QR[start:stop].ravel()
        return Qrels(np.arange(0, len(flat_J) + 1, RELEVANT), flat_J, np.ones(len(flat_J)))

    begun = time.perf_counter()
    figures = measure_queries(score_vectors(query_QD, item_ND), judge, queries=asked, items=items, ks=KS).figures
    return {"seconds": time.perf_counter() - begun, "map": float(figures["map"].mean())}


def run_theirs(queries: int, items: int, asked: int) -> dict[str, float]:
    """The same by pytrec_eval."""
    import pytrec_eval

    query_QD, item_ND, relevant_QR = draw_vectors(queries, items)
    ids = [f"d{n:07d}" for n in range(items)]
    found: list[float] = []
    begun = time.perf_counter()
    for start in range(0, asked, THEIR_BLOCK):
        block = range(start, min(start + THEIR_BLOCK, asked))
        score_BN = query_QD[block.start : block.stop] @ item_ND.T
        qrels = {str(q): {ids[n]: 1 for n in relevant_QR[q]} for q in block}
        run = {str(q): dict(zip(ids, row, strict=True)) for q, row in zip(block, score_BN.tolist(), strict=True)}
        found += [row["map"] for row in pytrec_eval.RelevanceEvaluator(qrels, NAMES).evaluate(run).values()]
    return {"seconds": time.perf_counter() - begun, "map": float(np.mean(found))}


def run_apart(who: str, queries: int, items: int, asked: int) -> dict[str, Any]:
    """One run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", who, *map(str, (queries, items, asked))]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Measure every case, or with four arguments one run; print a Markdown table, or one line of JSON."""
    if len(sys.argv) == 5:
        run = {"ours": run_ours, "theirs": run_theirs}[sys.argv[1]]
        figures = run(*map(int, sys.argv[2:]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(figures | {"gib": peak}))
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}. Command: `python -m benchmarks.scale`.\n")
    print("| queries x items | who | queries answered | ms a query | peak memory |\n|---|---|---|---|---|")
    for queries, items, *asked in CASES:
        for who, count in zip(("ours", "theirs"), asked, strict=True):
            if count:
                row = run_apart(who, queries, items, count)
                name = "ours" if who == "ours" else "pytrec_eval"
                cells = [f"{queries:,} x {items:,}", name, f"{count:,}"]
                cells += [f"{1000 * row['seconds'] / count:.1f}", f"{row['gib']:.2f} GiB"]
                print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nLoad average at the end: {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
