"""How well the encoder retrieves on test items, beside image only, text only and the plain sum of its towers.

Shapes: Q queries, N test items, D dimensions.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cbir.baselines import score_captions, take_histogram
from cbir.encoder import Encoder
from cbir.errors import CbirError, SplitError
from cbir.golden import read_golden
from cbir.metrics import measure_run, precision_recall_curve, sort_relevance
from cbir.params import EvaluateParams, load_section
from cbir.query_sets import (
    Gallery,
    QuerySet,
    embed_views,
    leave_out,
    list_query_sets,
    load_gallery,
    run_encoder,
    run_towers,
    score_run,
)
from cbir.records import read_table, write_json, write_table
from cbir.statistics import compare_systems, find_interval

STATISTICS = "statistics.json"
FUSED = ("fused_both", "fused")  # the system that is compared with all others of its task
Metrics = dict[str, Any]


def evaluate(
    ingested: Path,
    split: Path,
    encoder: Path,
    *,
    embedded: Path,
    golden: Path,
    out: Path,
    metrics: Path,
    params: EvaluateParams,
) -> Metrics:
    """Score retrieval on the test items, and the golden queries on all items as the index will hold them.

    Writes ``metrics``, and into ``out`` intervals and comparisons, per-query results and precision-recall curves.

    Raises:
        SplitError: fewer than two items to test on.
        GoldenError: the golden queries are malformed, or name what is not there.
        WorkspaceError: a file that an earlier stage writes is missing.
    """
    indexed = read_table(embedded / "embeddings.parquet", made_by="embed")
    loaded = Encoder.load(encoder)
    gallery = load_gallery(ingested, split, towers_folder=encoder)
    if len(gallery.ids) < 2:
        raise SplitError("Fewer than two test items; import more pictures, or raise split.test.")
    scorer = _Scorer(params)
    _score_query_sets(scorer, loaded, gallery)
    _score_golden(scorer, loaded, indexed, golden=golden)
    scorer.compare()
    scorer.summary["counts"] = {"test_items": len(gallery.ids), "items": indexed.num_rows}
    _write(scorer, out=out, metrics=metrics)
    return scorer.summary


class _Scorer:
    """Collects metrics, per-query average precision and curves, one system of one query set at a time."""

    def __init__(self, params: EvaluateParams) -> None:
        self.ks = params.k
        self.rng = np.random.default_rng(params.seed)
        self.answered: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
        self.summary: Metrics = {}
        self.statistics: Metrics = {}
        self.per_query: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []

    def add(
        self,
        task: str,
        system: str,
        score_QN: np.ndarray,
        *,
        grade_QN: np.ndarray,
        ids: Sequence[str],
        cluster_Q: np.ndarray,
    ) -> None:
        """Score one system on queries that each have something relevant; ``grade_QN`` may be bool."""
        figures = measure_run(score_QN, grade_QN, ks=self.ks)
        row: Metrics = {name: float(value_Q.mean()) for name, value_Q in figures.items()}
        sure = {name: self._find_interval(value_Q, cluster_Q) for name, value_Q in figures.items()}
        self.statistics.setdefault(task, {})[system] = {"interval": sure}
        self.summary.setdefault(task, {})[system] = row | {"queries": len(ids)}
        self.answered.setdefault(task, {})[system] = (figures["map"], cluster_Q)
        for id_, ap in zip(ids, figures["map"], strict=True):
            self.per_query.append({"task": task, "system": system, "query": id_, "average_precision": ap})
        for level, precision in zip(*precision_recall_curve(sort_relevance(score_QN, grade_QN) > 0), strict=True):
            self.curves.append({"task": task, "system": system, "recall": level, "precision": precision})

    def compare(self) -> None:
        """Put beside each task's fused system by how much its mAP is above that of every other system."""
        for task, systems in self.answered.items():
            ours = next((name for name in FUSED if name in systems), None)
            if ours is not None and len(systems) > 1:
                ap_Q, cluster_Q = systems[ours]
                self.statistics[task][ours]["above"] = {
                    name: asdict(compare_systems(ap_Q, theirs_Q, cluster_Q, rng=self.rng))
                    for name, (theirs_Q, _) in systems.items()
                    if name != ours
                }

    def _find_interval(self, value_Q: np.ndarray, cluster_Q: np.ndarray) -> dict[str, float]:
        low, high = find_interval(value_Q, cluster_Q, rng=self.rng)
        return {"low": low, "high": high}


def _score_query_sets(scorer: _Scorer, encoder: Encoder, gallery: Gallery) -> None:
    """The encoder on what the test items ask of one another, beside what needs no training."""
    vectors = embed_views(encoder, gallery.features)
    for query_set in list_query_sets(gallery):
        runs = run_encoder(encoder, gallery, query_set, vectors=vectors) | run_towers(encoder, gallery, query_set)
        for system, run in runs.items():
            _add(scorer, gallery, query_set, system=system, score_QN=score_run(query_set, run))
        if query_set.name == "label":
            histogram_NH = take_histogram(gallery.features)
            classical = {"histogram": histogram_NH @ histogram_NH.T, "bm25": score_captions(gallery.captions)}
            for system, score_NN in classical.items():
                score_QN = leave_out(query_set, score_NN[query_set.asking_Q])
                _add(scorer, gallery, query_set, system=system, score_QN=score_QN)


def _add(scorer: _Scorer, gallery: Gallery, query_set: QuerySet, *, system: str, score_QN: np.ndarray) -> None:
    rows = query_set.asking_Q
    scorer.add(
        query_set.name,
        system,
        score_QN,
        grade_QN=query_set.relevant_QN,
        ids=[gallery.ids[row] for row in rows],
        cluster_Q=gallery.cluster_N[rows],
    )


def _score_golden(scorer: _Scorer, encoder: Encoder, indexed: pa.Table, *, golden: Path) -> None:
    """The user's own queries over every item, trained on or not, as the index will hold it."""
    queries = read_golden(golden, indexed["id"].to_pylist())
    if queries.ids:
        item_ND = indexed["vector"].combine_chunks().flatten().to_numpy().reshape(-1, encoder.dimensions)
        score_QN = encoder.encode(queries.images, queries.texts) @ item_ND.T
        everyone = np.arange(len(queries.ids))
        scorer.add("golden", "fused", score_QN, grade_QN=queries.grade_QN, ids=queries.ids, cluster_Q=everyone)


def _write(scorer: _Scorer, *, out: Path, metrics: Path) -> None:
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_table(partial / "per_query.parquet", pa.Table.from_pylist(scorer.per_query))
    write_json(partial / "curves.json", scorer.curves)
    write_json(partial / STATISTICS, scorer.statistics)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    write_json(metrics, scorer.summary)


def main() -> None:
    """Run the stage: ``python -m cbir.evaluate INGESTED SPLIT ENCODER EMBEDDED GOLDEN OUT METRICS``."""
    ingested, split, encoder, embedded, golden, out, metrics = map(Path, sys.argv[1:8])
    try:
        params = load_section(Path("params.yaml"), "evaluate", EvaluateParams)
        evaluate(ingested, split, encoder, embedded=embedded, golden=golden, out=out, metrics=metrics, params=params)
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
