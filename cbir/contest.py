"""How the champion and a challenger answer the same queries, over items that neither has learnt from.

Shapes: Q queries, N items, F test items that are new to the champion, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cbir.answers import Answers
from cbir.clusters import mark_near, parse_hashes
from cbir.encoder import Encoder, read_canvas
from cbir.features import iterate_features, load_features
from cbir.gallery import select_gallery
from cbir.gate.evidence import Pair
from cbir.golden import read_golden
from cbir.query_sets import measure_encoder, measure_golden
from cbir.ranks import score_vectors
from cbir.records import BLOCK, count_blocks, iterate_items, read_items, read_table, select_items, write_table
from cbir.slices import slice_items

HELD_OUT = "test"
SLICED = ("label", "has_caption")
SCORES_SCHEMA = pa.schema(
    [
        ("metric", pa.string()),
        ("query", pa.string()),
        ("cluster", pa.string()),
        ("champion", pa.float64()),
        ("challenger", pa.float64()),
        ("parts", pa.list_(pa.string())),  # names of the slices that the query is in
    ]
)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A release's encoder: the folder it lies in, and it, open, of as many dimensions as the release is searched by."""

    folder: Path
    encoder: Encoder


@dataclass(frozen=True, kw_only=True)
class Field:
    """What is fought over: a workspace's stage outputs, its cache of tower outputs, and the cut-offs of the figures."""

    ingested: Path
    split: Path
    golden: Path
    cache: Path
    ks: Sequence[int]


def record_split(ingested: Path, split: Path, path: Path) -> None:
    """Write what a release learnt from, for later releases to keep off it: the split, with groups and hashes."""
    where = read_table(split / "split.parquet", made_by="split").to_pandas()
    items = read_items(ingested, columns=["id", "group", "sha256", "phash"]).to_pandas()
    write_table(path, pa.Table.from_pandas(where.merge(items, on="id", validate="one_to_one"), preserve_index=False))


def find_fresh(items: pa.Table, where_N: np.ndarray, *, learnt: pa.Table, distance: int) -> np.ndarray:
    """Rows of the test items that the champion did not learn from, int (F,).

    ``learnt`` is what ``record_split`` wrote of the champion. An item is not fresh where its id, its group, its file's
    hash or a perceptual hash within ``distance`` bits is one of those. Of an older release no groups are known.
    """
    used = learnt.filter(pc.not_equal(learnt["split"], HELD_OUT))
    keys = [name for name in ("id", "group", "sha256") if name in learnt.column_names]
    tested = np.flatnonzero(where_N == HELD_OUT)
    rows = items.select([*keys, "phash"]).take(tested)
    near = mark_near(*(parse_hashes(table["phash"].to_pylist()) for table in (rows, used)), distance=distance)
    known = [pc.is_in(rows[name], used[name]).to_numpy() for name in keys]
    return tested[~np.logical_or.reduce([near, *known])]


def hold_contest(
    champion: Contestant,
    challenger: Contestant,
    *,
    field: Field,
    learnt: pa.Table,
    distance: int,
    metrics: Sequence[str],
) -> tuple[pa.Table, dict[str, Any]]:
    """Scores of every query of ``metrics`` by both, as ``SCORES_SCHEMA``, and the facts of the contest.

    Raises:
        GoldenError: the golden queries are malformed.
        WorkspaceError: a stage's output is missing.
    """
    items = read_items(field.ingested, columns=["id", "group", "sha256", "phash"])
    where = read_table(field.split / "split.parquet", made_by="split").to_pandas().set_index("id")
    where = where.loc[items["id"].to_pylist()]
    where_N, cluster_N = where["split"].to_numpy(), where["cluster"].to_numpy()
    fresh = find_fresh(items, where_N, learnt=learnt, distance=distance)
    columns = ["id", "image", "captions", "labels", "sha256"]
    asked = pa.concat_tables(select_items(field.ingested, items["id"].take(fresh).to_pylist(), columns=columns))
    answers: list[list[Answers]] = []
    golden: list[float] = []
    for one in (champion, challenger):
        answers.append(_answer(one, asked, cluster_F=cluster_N[fresh], field=field) if len(fresh) else [])
        golden += _score_golden(one, ids=items["id"].to_pylist(), field=field)
    facts = {
        "test_items": int((where_N == HELD_OUT).sum()),
        "fresh_items": len(fresh),
        "golden": golden or None,
    }
    parts = list_parts(asked)
    return pa.Table.from_pylist(list(_pair_up(*answers, metrics=metrics, parts=parts)), schema=SCORES_SCHEMA), facts


def _answer(one: Contestant, items: pa.Table, *, cluster_F: np.ndarray, field: Field) -> list[Answers]:
    gallery = select_gallery(
        items,
        load_features(items, towers_folder=one.folder, cache=field.cache),
        np.arange(items.num_rows),
        cluster_N=cluster_F,
        ingested=field.ingested,
        towers_folder=one.folder,
        cache=field.cache,
    )
    return list(measure_encoder(one.encoder, gallery, ks=field.ks))


def list_parts(items: pa.Table) -> dict[str, list[str]]:
    """Names of the slices that each item is in: its labels' top levels, and whether it has words."""
    sliced = {name: slice_items(items, name) for name in SLICED}
    return {
        id_: [f"{name}={value}" for name, values in sliced.items() for value in values[row]]
        for row, id_ in enumerate(items["id"].to_pylist())
    }


def _pair_up(
    champion: list[Answers], challenger: list[Answers], *, metrics: Sequence[str], parts: dict[str, list[str]]
) -> Iterator[dict[str, Any]]:
    theirs = {(one.query_set, one.system): one for one in champion}
    for ours in challenger:
        other = theirs.get((ours.query_set, ours.system))
        for figure, value_Q in ours.figures.items():
            metric = f"{ours.query_set}.{ours.system}.{figure}"
            if other is None or metric not in metrics:
                continue
            assert list(other.ids) == list(ours.ids), "both were given the same items"
            rows = zip(ours.ids, ours.cluster_Q, other.figures[figure], value_Q, strict=True)
            for id_, cluster, old, new in rows:
                yield {
                    "metric": metric,
                    "query": id_,
                    "cluster": cluster,
                    "champion": float(old),
                    "challenger": float(new),
                    "parts": parts.get(id_, []),  # none where no item asks
                }


def _score_golden(one: Contestant, *, ids: list[str], field: Field) -> list[float]:
    """Mean nDCG of the golden queries over every item, as a list of one; empty where there are none."""
    queries = read_golden(field.golden, ids, canvas=read_canvas(field.ingested / "ingest.json"))
    if not queries.ids:
        return []
    encoder = one.encoder
    blocks = iterate_features(
        iterate_items(field.ingested, columns=["image", "captions", "sha256"], rows=BLOCK),
        count=count_blocks(field.ingested, rows=BLOCK),
        towers_folder=one.folder,
        cache=field.cache,
        towers=encoder.towers,
    )
    item_ND = np.concatenate([encoder.fuse(features) for features in blocks])
    score = score_vectors(encoder.encode(queries.images, queries.texts), item_ND, encoder.similarity)
    return [float(measure_golden(queries, score, ks=field.ks).figures[f"ndcg@{max(field.ks)}"].mean())]


def list_pairs(scores: pa.Table) -> list[Pair]:
    """Each metric on all queries, then on each slice that is some of them."""
    pairs = []
    frame = scores.to_pandas()
    for metric, rows in frame.groupby("metric", sort=False):
        names = sorted({name for parts in rows["parts"] for name in parts})
        inside = {name: rows["parts"].map(lambda parts, name=name: name in parts) for name in names}
        pairs.append(_make_pair(str(metric), "", rows))
        pairs += [_make_pair(str(metric), name, rows[inside[name]]) for name in names if not inside[name].all()]
    return pairs


def _make_pair(metric: str, part: str, rows: Any) -> Pair:
    return Pair(
        metric=metric,
        part=part,
        champion_Q=rows["champion"].to_numpy(),
        challenger_Q=rows["challenger"].to_numpy(),
        cluster_Q=rows["cluster"].to_numpy(),
    )
