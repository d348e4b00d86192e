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

from cbir.baselines import normalise, pool_towers, score_captions, take_histogram
from cbir.encoder import Encoder, Features
from cbir.errors import CbirError, SplitError
from cbir.features import first_captions, keep_modalities, load_features, replace_words, select_rows
from cbir.golden import read_golden
from cbir.metrics import (
    average_precision,
    encode_labels,
    hit_at_k,
    ndcg_at_k,
    precision_at_k,
    precision_recall_curve,
    recall_at_k,
    reciprocal_rank,
    share_labels,
    sort_relevance,
)
from cbir.params import EvaluateParams, load_section
from cbir.records import read_items, read_relative, read_table, write_json, write_table
from cbir.statistics import compare_systems, find_interval

STATISTICS = "statistics.json"
FUSED = ("fused_both", "fused")  # the system that is compared with all others of its task
VIEWS = {"image": (True, False), "text": (False, True), "both": (True, True)}
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
    items = read_items(ingested, columns=["id", "image", "captions", "labels", "sha256"])
    features = load_features(items, towers_folder=encoder)
    where = read_table(split / "split.parquet", made_by="split").to_pandas().set_index("id")
    where = where.loc[items["id"].to_pylist()]
    test = np.flatnonzero(where["split"].to_numpy() == "test")
    if len(test) < 2:
        raise SplitError("Fewer than two test items; import more pictures, or raise split.test.")
    tested = select_rows(features, test)
    ids = items["id"].take(test).to_pylist()
    scorer = _Scorer(ids, cluster_N=where["cluster"].to_numpy()[test], params=params)
    vectors = _embed_views(loaded, tested) | pool_towers(tested)
    _score_cross_modal(scorer, vectors, tested)
    relevant_NN = share_labels(encode_labels(items["labels"].take(test).to_pylist()))
    scores = {name: vector_ND @ vector_ND.T for name, vector_ND in vectors.items()}
    histogram_NH = take_histogram(tested)
    scores |= {"histogram": histogram_NH @ histogram_NH.T, "bm25": score_captions(first_captions(items.take(test)))}
    _score_labels(scorer, scores, relevant_NN=relevant_NN)
    _score_relative(scorer, loaded, tested, vectors, pairs=read_relative(ingested, ids))
    _score_golden(scorer, loaded, indexed, golden=golden)
    scorer.compare()
    scorer.summary["counts"] = {"test_items": len(test), "items": items.num_rows}
    _write(scorer, out=out, metrics=metrics)
    return scorer.summary


class _Scorer:
    """Collects metrics, per-query average precision and curves, one system of one query set at a time."""

    def __init__(self, ids: Sequence[str], *, cluster_N: np.ndarray, params: EvaluateParams) -> None:
        self.ids = ids
        self.cluster_N = cluster_N
        self.ks = params.k
        self.rng = np.random.default_rng(params.seed)
        self.answered: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
        self.summary: Metrics = {}
        self.statistics: Metrics = {}
        self.per_query: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []

    def add(self, task: str, system: str, *, score_QN: np.ndarray, relevant_QN: np.ndarray, query: np.ndarray) -> None:
        """Score one system on those queries, rows of test items, that have something relevant."""
        asked = np.flatnonzero(relevant_QN.any(axis=1))
        names, cluster_Q = [self.ids[n] for n in query[asked]], self.cluster_N[query[asked]]
        self.add_named(task, system, score_QN[asked], grade_QN=relevant_QN[asked], names=names, cluster_Q=cluster_Q)

    def add_named(
        self,
        task: str,
        system: str,
        score_QN: np.ndarray,
        *,
        grade_QN: np.ndarray,
        names: Sequence[str],
        cluster_Q: np.ndarray,
    ) -> None:
        """Score one system on named queries, each with something relevant; ``grade_QN`` may be bool."""
        if len(names) == 0:
            return
        graded_QN = sort_relevance(score_QN, grade_QN)
        ranked_QN = graded_QN > 0
        total_Q = ranked_QN.sum(axis=1)
        ap_Q = average_precision(ranked_QN, total_Q=total_Q)
        values = {"map": ap_Q, "mrr": reciprocal_rank(ranked_QN)}
        for k in self.ks:
            values[f"hit@{k}"] = hit_at_k(ranked_QN, k=k)
            values[f"recall@{k}"] = recall_at_k(ranked_QN, k=k, total_Q=total_Q)
            values[f"precision@{k}"] = precision_at_k(ranked_QN, k=k)
            values[f"ndcg@{k}"] = ndcg_at_k(graded_QN, k=k)
        row: Metrics = {name: float(value_Q.mean()) for name, value_Q in values.items()}
        sure = {name: self._find_interval(value_Q, cluster_Q) for name, value_Q in values.items()}
        self.statistics.setdefault(task, {})[system] = {"interval": sure}
        self.summary.setdefault(task, {})[system] = row | {"queries": len(names)}
        self.answered.setdefault(task, {})[system] = (ap_Q, cluster_Q)
        for name, ap in zip(names, ap_Q, strict=True):
            self.per_query.append({"task": task, "system": system, "query": name, "average_precision": ap})
        for level, precision in zip(*precision_recall_curve(ranked_QN), strict=True):
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


def _embed_views(encoder: Encoder, features: Features) -> dict[str, np.ndarray]:
    return {
        f"fused_{name}": encoder.fuse(keep_modalities(features, image=image, text=text))
        for name, (image, text) in VIEWS.items()
    }


def _score_cross_modal(scorer: _Scorer, vectors: dict[str, np.ndarray], features: Features) -> None:
    """The queries' own item is what is relevant; untrained towers share no space, so only fused is scored."""
    own_NN = np.eye(len(scorer.ids), dtype=bool)
    score_NN = vectors["fused_text"] @ vectors["fused_image"].T
    asked = np.flatnonzero(features.has_text_B & features.has_image_B)
    scorer.add("text_to_image", "fused", score_QN=score_NN[asked], relevant_QN=own_NN[asked], query=asked)
    scorer.add("image_to_text", "fused", score_QN=score_NN.T[asked], relevant_QN=own_NN[asked], query=asked)


def _score_labels(scorer: _Scorer, scores: dict[str, np.ndarray], *, relevant_NN: np.ndarray) -> None:
    """Every item asks for the others that share a label, by each system's own score."""
    everyone = np.arange(len(scorer.ids))
    for system, score_NN in scores.items():
        np.fill_diagonal(score_NN, -np.inf)
        scorer.add("label", system, score_QN=score_NN, relevant_QN=relevant_NN, query=everyone)


def _score_relative(
    scorer: _Scorer,
    encoder: Encoder,
    features: Features,
    vectors: dict[str, np.ndarray],
    *,
    pairs: list[tuple[int, str, int]],
) -> None:
    """This picture, but ...: the target is relevant, the reference itself is left out of the gallery.

    ``relative`` searches pictures alone; ``relative_indexed`` searches items as the index holds them. ``sum`` adds the
    frozen towers' cosines, of picture to picture and of wish to caption; ``fused_sum`` adds the encoder's vectors.
    """
    if not pairs:
        return
    reference, target = np.array([p[0] for p in pairs]), np.array([p[2] for p in pairs])
    asked = replace_words(select_rows(features, reference), encoder.towers, [p[1] for p in pairs])
    relevant_QN = np.zeros((len(pairs), len(scorer.ids)), bool)
    relevant_QN[np.arange(len(pairs)), target] = True
    views = _embed_views(encoder, asked)
    views["fused_sum"] = normalise(views["fused_image"] + views["fused_text"])
    pooled = pool_towers(asked)
    for task, gallery, baseline in (
        ("relative", "fused_image", "image_only"),
        ("relative_indexed", "fused_both", "sum"),
    ):
        systems = {name: (query_QD, vectors[gallery]) for name, query_QD in views.items()}
        systems[baseline] = (pooled[baseline], vectors[baseline])
        for system, (query_QD, item_ND) in systems.items():
            score_QN = query_QD @ item_ND.T
            score_QN[np.arange(len(pairs)), reference] = -np.inf
            scorer.add(task, system, score_QN=score_QN, relevant_QN=relevant_QN, query=reference)


def _score_golden(scorer: _Scorer, encoder: Encoder, indexed: pa.Table, *, golden: Path) -> None:
    """The user's own queries over every item, trained on or not, as the index will hold it."""
    queries = read_golden(golden, indexed["id"].to_pylist())
    if queries.ids:
        item_ND = indexed["vector"].combine_chunks().flatten().to_numpy().reshape(-1, encoder.dimensions)
        score_QN = encoder.encode(queries.images, queries.texts) @ item_ND.T
        everyone = np.arange(len(queries.ids))
        scorer.add_named("golden", "fused", score_QN, grade_QN=queries.grade_QN, names=queries.ids, cluster_Q=everyone)


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
