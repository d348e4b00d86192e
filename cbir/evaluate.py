"""How well the encoder retrieves on test items, beside image only, text only and the plain sum of its towers.

Shapes: Q queries, N test items, D dimensions.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cbir.encoder import Encoder
from cbir.errors import CbirError, SplitError
from cbir.golden import read_golden
from cbir.params import EvaluateParams, load_section
from cbir.query_sets import (
    Answers,
    Gallery,
    embed_views,
    list_query_sets,
    load_gallery,
    measure_system,
    run_encoder,
)
from cbir.ranks import list_levels, measure_queries, pack_qrels, score_dots
from cbir.records import read_table, write_json, write_table
from cbir.rivals import Rivals
from cbir.statistics import Comparison, compare_systems, find_interval

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
        TrainingError: the encoder's scores are not numbers.
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
        self.seed = params.seed
        self.answered: dict[str, dict[str, Answers]] = {}
        self.summary: Metrics = {}
        self.statistics: Metrics = {}
        self.per_query: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []

    def add(self, answers: Answers) -> None:
        """Take in how one system answers one query set."""
        task, system = answers.query_set, answers.system
        row: Metrics = {name: float(value_Q.mean()) for name, value_Q in answers.figures.items()}
        sure = find_intervals(answers.figures, answers.cluster_Q, rng=seed_rng(self.seed, task, system))
        self.statistics.setdefault(task, {})[system] = {"interval": sure}
        self.summary.setdefault(task, {})[system] = row | {"queries": len(answers.ids)}
        self.answered.setdefault(task, {})[system] = answers
        for id_, ap in zip(answers.ids, answers.figures["map"], strict=True):
            self.per_query.append({"task": task, "system": system, "query": id_, "average_precision": ap})
        for level, precision in zip(list_levels(), answers.precision_QP.mean(axis=0), strict=True):
            self.curves.append({"task": task, "system": system, "recall": level, "precision": precision})

    def compare(self) -> None:
        """Put beside each task's fused system by how much its mAP is above that of every other system."""
        for task, systems in self.answered.items():
            ours = next((name for name in FUSED if name in systems), None)
            if ours is not None and len(systems) > 1:
                self.statistics[task][ours]["above"] = {
                    name: asdict(compare_answers(systems[ours], theirs, seed=self.seed))
                    for name, theirs in systems.items()
                    if name != ours
                }


def compare_answers(ours: Answers, theirs: Answers, *, seed: int) -> Comparison:
    """By how much one system's mAP is above that of another, which answered the same queries."""
    rng = seed_rng(seed, ours.query_set, ours.system, theirs.system)
    return compare_systems(ours.figures["map"], theirs.figures["map"], ours.cluster_Q, rng=rng)


def find_intervals(
    figures: Mapping[str, np.ndarray], cluster_Q: np.ndarray, *, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """The interval of the mean of every figure."""
    sure = {}
    for name, value_Q in figures.items():
        low, high = find_interval(value_Q, cluster_Q, rng=rng)
        sure[name] = {"low": low, "high": high}
    return sure


def seed_rng(seed: int, *names: str) -> np.random.Generator:
    """Random numbers of its own for everything that has a name, so that one more system changes no other's interval."""
    return np.random.default_rng([seed, *map(ord, "/".join(names))])


def _score_query_sets(scorer: _Scorer, encoder: Encoder, gallery: Gallery) -> None:
    """The encoder on what the test items ask of one another, beside what needs no training."""
    vectors, rivals = embed_views(encoder, gallery.features), Rivals(gallery, encoder)
    for query_set in list_query_sets(gallery):
        systems = run_encoder(encoder, gallery, query_set, vectors=vectors) | rivals.answer(query_set)
        for system, score in systems.items():
            scorer.add(measure_system(gallery, query_set, system=system, score=score, ks=scorer.ks))


def _score_golden(scorer: _Scorer, encoder: Encoder, indexed: pa.Table, *, golden: Path) -> None:
    """The user's own queries over every item, trained on or not, as the index will hold it."""
    queries = read_golden(golden, indexed["id"].to_pylist())
    if not queries.ids:
        return
    item_ND = indexed["vector"].combine_chunks().flatten().to_numpy().reshape(-1, encoder.dimensions)
    measured = measure_queries(
        score_dots(encoder.encode(queries.images, queries.texts), item_ND),
        lambda start, stop: pack_qrels(queries.grade_QN[start:stop]),
        queries=len(queries.ids),
        items=len(item_ND),
        ks=scorer.ks,
    )
    scorer.add(
        Answers(
            query_set="golden",
            system="fused",
            ids=queries.ids,
            cluster_Q=np.arange(len(queries.ids)),
            figures=measured.figures,
            precision_QP=measured.precision_QP,
        )
    )


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
