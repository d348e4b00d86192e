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
import pyarrow.compute as pc

from cbir.answers import Answers, compare_answers, find_fused, find_intervals
from cbir.encoder import Encoder
from cbir.errors import CbirError, SplitError
from cbir.golden import read_golden
from cbir.params import EvaluateParams, load_section
from cbir.query_sets import (
    Gallery,
    embed_views,
    list_query_sets,
    load_gallery,
    measure_golden,
    measure_system,
    run_encoder,
)
from cbir.ranks import list_levels, score_vectors
from cbir.records import read_items, read_table, write_json, write_table
from cbir.rivals import Rivals
from cbir.slices import COLUMNS, measure_slices

STATISTICS = "statistics.json"
SLICES = "slices.json"
GOLDEN = "golden.json"
CURVES = "curves.json"
SHOWN = 6  # first hits of a golden query
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

    Writes ``metrics``, and into ``out`` intervals and comparisons, slices, per-query results and curves.

    Raises:
        SplitError: fewer than two items to test on.
        GoldenError: the golden queries are malformed, or name what is not there.
        ParamsError: a slice names an attribute that no item has.
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
    hits = _score_golden(scorer, loaded, indexed, golden=golden)
    scorer.compare()
    scorer.summary["counts"] = {"test_items": len(gallery.ids), "items": indexed.num_rows}
    items = read_items(ingested, columns=COLUMNS)
    tested = items.filter(pc.is_in(items["id"], pa.array(gallery.ids)))
    files = {SLICES: scorer.slice(tested), GOLDEN: hits, STATISTICS: scorer.statistics, CURVES: scorer.curves}
    _write(scorer, files, out=out, metrics=metrics)
    return scorer.summary


class _Scorer:
    """Collects what systems answer, one of one query set at a time: figures, intervals, per-query results, curves."""

    def __init__(self, params: EvaluateParams) -> None:
        self.params = params
        self.answered: dict[str, dict[str, Answers]] = {}
        self.summary: Metrics = {}
        self.statistics: Metrics = {}
        self.per_query: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []

    def add(self, answers: Answers) -> None:
        """Take in how one system answers one query set."""
        task, system = answers.query_set, answers.system
        row: Metrics = {name: float(value_Q.mean()) for name, value_Q in answers.figures.items()}
        sure = find_intervals(answers, answers.figures, seed=self.params.seed)
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
            ours = find_fused(systems)
            if ours is not None and len(systems) > 1:
                self.statistics[task][ours]["above"] = {
                    name: asdict(compare_answers(systems[ours], theirs, seed=self.params.seed))
                    for name, theirs in systems.items()
                    if name != ours
                }

    def slice(self, items: pa.Table) -> Metrics:
        """The fused systems' figures by kind of item."""
        every = [answers for systems in self.answered.values() for answers in systems.values()]
        names, least, seed = self.params.slices, self.params.least_queries, self.params.seed
        return measure_slices(every, items, names=names, least_queries=least, seed=seed)


def _score_query_sets(scorer: _Scorer, encoder: Encoder, gallery: Gallery) -> None:
    """The encoder on what the test items ask of one another, beside what needs no training."""
    vectors, rivals = embed_views(encoder, gallery.features), Rivals(gallery, encoder)
    for query_set in list_query_sets(gallery):
        systems = run_encoder(encoder, gallery, query_set, vectors=vectors) | rivals.answer(query_set)
        for system, score in systems.items():
            scorer.add(measure_system(gallery, query_set, system=system, score=score, ks=scorer.params.k))


def _score_golden(scorer: _Scorer, encoder: Encoder, indexed: pa.Table, *, golden: Path) -> list[Metrics]:
    """The user's own queries over every item, trained on or not, as the index will hold it; the first hits of each."""
    ids = indexed["id"].to_pylist()
    queries = read_golden(golden, ids)
    if not queries.ids:
        return []
    item_ND = indexed["vector"].combine_chunks().flatten().to_numpy().reshape(-1, encoder.dimensions)
    score = score_vectors(encoder.encode(queries.images, queries.texts), item_ND, encoder.similarity)
    answers = measure_golden(queries, score, ks=scorer.params.k)
    scorer.add(answers)
    shown = []
    for q in range(len(queries.ids)):
        score_N = score(q, q + 1)[0]
        first = np.argsort(-score_N, kind="stable")[:SHOWN]
        hits = [{"id": ids[n], "score": float(score_N[n]), "grade": int(queries.grade_QN[q, n])} for n in first]
        asked = {"query": queries.ids[q], "text": queries.texts[q], "image": queries.files[q]}
        shown.append(asked | {"average_precision": float(answers.figures["map"][q]), "hits": hits})
    return shown


def _write(scorer: _Scorer, files: Mapping[str, Any], *, out: Path, metrics: Path) -> None:
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_table(partial / "per_query.parquet", pa.Table.from_pylist(scorer.per_query))
    for name, value in files.items():
        write_json(partial / name, value)
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
