"""What our metrics cost beside pytrec_eval, from the same scores to the same means.

Shapes: Q queries, N items.
"""

from __future__ import annotations

import numpy as np
import pytrec_eval

from benchmarks.timing import format_time, time_call
from cbir.ranks import count_ranks, measure_ranks, pack_qrels

QUERIES, ITEMS, RELEVANT = 1000, 10_000, 20


def measure_metrics() -> list[list[str]]:
    """Mean average precision and recall@10; the dictionaries that pytrec_eval reads are timed apart.

    ``benchmarks.scale`` measures larger ones.
    """
    rng = np.random.default_rng(0)
    score_QN = rng.normal(size=(QUERIES, ITEMS))
    relevant_QN = np.zeros((QUERIES, ITEMS), bool)
    for row in relevant_QN:
        row[rng.choice(ITEMS, RELEVANT, replace=False)] = True
    packed = pack_qrels(relevant_QN)
    ids = [f"d{n:05d}" for n in range(ITEMS)]
    qrels = {str(q): {ids[n]: 1 for n in np.flatnonzero(row)} for q, row in enumerate(relevant_QN)}

    def run_ours() -> tuple[float, float]:
        figures = measure_ranks(count_ranks(score_QN, packed), packed, ks=(10,)).figures
        return float(figures["map"].mean()), float(figures["recall@10"].mean())

    def build_run() -> dict[str, dict[str, float]]:
        return {str(q): dict(zip(ids, row, strict=True)) for q, row in enumerate(score_QN.tolist())}

    run = build_run()
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"map", "recall_10"})

    def run_theirs() -> tuple[float, float]:
        rows = evaluator.evaluate(run).values()
        return float(np.mean([r["map"] for r in rows])), float(np.mean([r["recall_10"] for r in rows]))

    np.testing.assert_allclose(run_ours(), run_theirs(), rtol=1e-6)
    ours, theirs, building = time_call(run_ours), time_call(run_theirs), time_call(build_run)
    compared = f"pytrec_eval: {format_time(theirs)}, and {format_time(building)} to build its dictionaries"
    how = f"mAP and recall@10, {QUERIES:,} queries x {ITEMS:,} items, {RELEVANT} relevant; the means are equal"
    return [["metrics", format_time(ours), compared, how]]
