"""Every figure of an evaluation: systems by query set, with intervals, comparisons, slices and curves."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from cbir.answers import Answers, compare_answers, find_fused, find_intervals
from cbir.encoder import Encoder
from cbir.examples import show_queries
from cbir.gallery import Gallery
from cbir.params import EvaluateParams
from cbir.query_sets import embed_views, list_query_sets, measure_system, run_encoder
from cbir.ranks import list_levels
from cbir.records import replace_folder, write_json, write_table
from cbir.rivals import Rivals
from cbir.slices import measure_slices

PER_QUERY = "per_query.parquet"
STATISTICS = "statistics.json"
SLICES = "slices.json"
GOLDEN = "golden.json"
CURVES = "curves.json"
EXAMPLES = "examples.json"
PER_QUERY_SCHEMA = pa.schema(
    [("task", pa.string()), ("system", pa.string()), ("query", pa.string()), ("average_precision", pa.float64())]
)
Metrics = dict[str, Any]


class Scoreboard:
    """Collects what systems answer, one of one query set at a time: figures, intervals, per-query results, curves."""

    def __init__(self, params: EvaluateParams) -> None:
        self.params = params
        self.answered: dict[str, dict[str, Answers]] = {}
        self.summary: Metrics = {}
        self.statistics: Metrics = {}
        self.per_query: list[pa.Table] = []
        self.curves: list[dict[str, Any]] = []
        self.examples: Metrics = {}

    def add(self, answers: Answers) -> None:
        """Take in how one system answers one query set."""
        task, system = answers.query_set, answers.system
        row: Metrics = {name: float(value_Q.mean()) for name, value_Q in answers.figures.items()}
        sure = find_intervals(answers, answers.figures, seed=self.params.seed)
        self.statistics.setdefault(task, {})[system] = {"interval": sure}
        self.summary.setdefault(task, {})[system] = row | {"queries": len(answers.ids)}
        self.answered.setdefault(task, {})[system] = answers
        same = [pa.repeat(name, len(answers.ids)) for name in (task, system)]
        columns = [*same, list(answers.ids), answers.figures["map"]]
        self.per_query.append(pa.table(columns, schema=PER_QUERY_SCHEMA))
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
        """The fused systems' figures by kind of item, of ``items`` with the columns of ``cbir.slices``.

        Raises:
            ParamsError: a slice names an attribute that no item has.
        """
        every = [answers for systems in self.answered.values() for answers in systems.values()]
        names, least, seed = self.params.slices, self.params.least_queries, self.params.seed
        return measure_slices(every, items, names=names, least_queries=least, seed=seed)


def score_gallery(board: Scoreboard, encoder: Encoder, gallery: Gallery) -> None:
    """The encoder on what the items ask of one another, beside what needs no training, and by how much it is above.

    Raises:
        TrainingError: the encoder's scores are not numbers.
    """
    vectors, rivals = embed_views(encoder, gallery.features), Rivals(gallery, encoder)
    for query_set in list_query_sets(gallery, reads_words=encoder.reads_words):
        systems = run_encoder(encoder, gallery, query_set, vectors=vectors) | rivals.answer(query_set)
        for system, score in systems.items():
            answers = measure_system(gallery, query_set, system=system, score=score, ks=board.params.k)
            board.add(answers)
            if system == find_fused(systems):
                board.examples[query_set.name] = show_queries(gallery, query_set, answers, score=score)
    board.compare()


def write_scores(board: Scoreboard, out: Path, *, slices: Metrics, golden: list[Metrics]) -> None:
    """Write the folder ``out`` in one step: every figure, per-query results, and what is shown of some queries."""
    files = {
        STATISTICS: board.statistics,
        SLICES: slices,
        GOLDEN: golden,
        CURVES: board.curves,
        EXAMPLES: board.examples,
    }
    with replace_folder(out) as folder:
        write_table(folder / PER_QUERY, pa.concat_tables([PER_QUERY_SCHEMA.empty_table(), *board.per_query]))
        for name, value in files.items():
            write_json(folder / name, value)
