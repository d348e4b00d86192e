"""How well a trained encoder retrieves on a data set that is not the workspace's: every item of it is a test item."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cbir.answers import KEY_FIGURES
from cbir.clusters import mark_near, parse_hashes
from cbir.contest import HELD_OUT, record_split
from cbir.encoder import Encoder
from cbir.errors import ReleaseError, SourceError
from cbir.evaluation_page import COLUMNS as SHOWN
from cbir.evaluation_page import write_outside_page
from cbir.features import CACHE, load_features
from cbir.gallery import Gallery, select_gallery
from cbir.ingest import ingest
from cbir.params import EvaluateParams, IngestParams, SplitParams
from cbir.params.file import load_section
from cbir.printing import align_columns
from cbir.query_sets import QuerySet, list_query_sets
from cbir.records import read_items, read_table
from cbir.registry import Release, open_registry
from cbir.report import format_moment, render_facts, render_warning
from cbir.scoreboard import Scoreboard, score_gallery, write_scores
from cbir.scratch import make_scratch
from cbir.slices import COLUMNS, list_names
from cbir.sources import import_source
from cbir.split import cluster_items

LEARNT = "split.parquet"  # evidence of a release, as ``record_split`` writes it


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures as in ``metrics.json``, with counts of the items; ``warnings`` of what says little; their page."""

    metrics: dict[str, Any]
    warnings: list[str]
    page: Path


def locate_encoder(workspace: Path, release: str) -> tuple[Path, Release]:
    """The encoder folder of a release, by its number or an alias such as ``champion``, and the release.

    Raises:
        ReleaseError: there is no such release.
    """
    registry = open_registry(workspace)
    found = registry.get_version(release)
    return registry.download_encoder(found), found


def evaluate_outside(
    source: str, *, encoder_folder: Path, workspace: Path, now: datetime, release: Release | None = None
) -> Evaluation:
    """Import ``source`` into a temporary place, score the encoder on all of it, and write a page into ``reports/``.

    The workspace's parameters hold, but pictures are fitted as those that the encoder learned from; its data stays as
    it is. Vectors have as many dimensions as the index of the ``release`` holds; without one, all. The counts say how
    many of the items have a near duplicate among those that the release learnt from; without one, and of one that did
    not record it, among those that the workspace trains on, where it has been split.

    Raises:
        SourceError: the source cannot be imported, or has nothing to ask.
        TowerError: there is no encoder.
        TrainingError: the encoder's scores are not numbers.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).resolve().name).strip("-").lower() or "data"
    encoder = Encoder.load(encoder_folder).shorten(release.dimensions if release else None)
    with make_scratch(workspace) as place:
        import_source(source, name=name, raw=place / "raw")
        params = load_section(workspace / "params.yaml", "ingest", IngestParams)
        params = replace(params, image_size=encoder.canvas.size, background=encoder.canvas.background)
        counts = ingest(place / "raw", place / "ingested", params=params)
        gallery = _open_gallery(place / "ingested", encoder_folder=encoder_folder, workspace=workspace)
        sliced = read_items(place / "ingested", columns=COLUMNS)
        board = _score(gallery, sliced, encoder=encoder, workspace=workspace)
        learnt, doubts = _find_learnt(release, workspace=workspace, scratch=place)
        board.summary["counts"] = counts | _count_known(place / "ingested", learnt, workspace=workspace)
        write_scores(board, place / "scores", slices=board.slice(sliced), golden=[])
        warnings = doubts + list_warnings(board, gallery, reads_words=encoder.reads_words)
        page = workspace / "reports" / f"evaluation-{name}.html"
        shown = read_items(place / "ingested", columns=SHOWN)
        title = f"Evaluation on {name}"
        facts = _list_facts(source, encoder=encoder, release=release, now=now)
        head = [render_facts(facts), _render_counts(board.summary["counts"]), *map(render_warning, warnings)]
        write_outside_page(page, title=title, head=head, scores=place / "scores", metrics=board.summary, items=shown)
    return Evaluation(metrics=board.summary, warnings=warnings, page=page)


def list_figures(metrics: dict[str, Any]) -> list[str]:
    """What a terminal shows: a line a system."""
    rows = [
        [task, system, str(row["queries"]), *(f"{100 * row[name]:.1f}" if name in row else "-" for name in KEY_FIGURES)]
        for task, systems in metrics.items()
        if task != "counts"
        for system, row in systems.items()
    ]
    return align_columns(["query set", "system", "queries", *KEY_FIGURES], rows, names=2)


def describe_counts(counts: dict[str, int]) -> str:
    """What was evaluated, in a sentence."""
    near = counts.get("items_near_training")
    known = "" if near is None else f"; {near:,} of them have a near duplicate among the items that were trained on"
    return f"{counts['items']:,} items, {counts['quarantined']:,} that cannot be used{known}."


def list_warnings(board: Scoreboard, gallery: Gallery, *, reads_words: bool) -> list[str]:
    """Which query sets have figures that say little: any order is right, or the queries are few."""
    sets, least = list_query_sets(gallery, reads_words=reads_words), board.params.least_queries
    trivial = [one.name for one in sets if _is_trivial(one, items=len(gallery.ids))]
    few = [f"{one.name} ({len(one.ids)})" for one in sets if len(one.ids) < least]
    warnings = {
        "Every item is relevant to every query, any order of them scores 100": trivial,
        f"Fewer than {least} queries (evaluate.least_queries), figures say little": few,
    }
    return [f"{told}: {', '.join(names)}." for told, names in warnings.items() if names]


def _is_trivial(query_set: QuerySet, *, items: int) -> bool:
    searched_Q = items - query_set.relevance.left_out_QN.sum(axis=1)
    return all(len(query_set.relevance.judge(q, q + 1).item_J) == count for q, count in enumerate(searched_Q))


def _list_facts(source: str, *, encoder: Encoder, release: Release | None, now: datetime) -> dict[str, str]:
    number = {"release": release.version} if release else {}
    data = str(Path(source).resolve()) if Path(source).exists() else source
    return number | {"encoder": encoder.fingerprint, "data": data, "evaluated": format_moment(now)}


def _render_counts(counts: dict[str, int]) -> str:
    """A warning where the encoder may have learnt from what it is tested on."""
    told = describe_counts(counts)
    return render_warning(told) if counts.get("items_near_training") else f"<p>{told}</p>"


def _open_gallery(ingested: Path, *, encoder_folder: Path, workspace: Path) -> Gallery:
    items = read_items(ingested, columns=["id", "image", "captions", "labels", "group", "sha256", "phash"])
    distance = load_section(workspace / "params.yaml", "split", SplitParams).phash_distance
    groups, hashes, phashes = (items[name].to_pylist() for name in ("group", "sha256", "phash"))
    cluster_N = cluster_items(groups, hashes, phashes, distance=distance)
    features = load_features(items, towers_folder=encoder_folder, cache=workspace / CACHE)
    rows = np.arange(items.num_rows)
    return select_gallery(
        items,
        features,
        rows,
        cluster_N=cluster_N,
        ingested=ingested,
        towers_folder=encoder_folder,
        cache=workspace / CACHE,
    )


def _find_learnt(release: Release | None, *, workspace: Path, scratch: Path) -> tuple[pa.Table | None, list[str]]:
    """What the encoder learnt from, as ``record_split`` writes it, None where nothing says; and warnings.

    A release says so itself, for the workspace may have been split anew since. Without a word of it the workspace's
    present split has to do.
    """
    recorded = _fetch_learnt(release, workspace=workspace) if release else None
    if recorded:
        return read_table(recorded, made_by="split"), []
    split, ingested, path = workspace / "data/split", workspace / "data/ingested", scratch / LEARNT
    if not (split / "split.parquet").exists() or not any(ingested.glob("items-*.parquet")):
        return None, []
    record_split(ingested, split, path)
    doubt = "does not say what it learnt from; near duplicates are counted by the workspace's present split"
    return read_table(path, made_by="split"), [f"Release {release.version} {doubt}."] if release else []


def _fetch_learnt(release: Release, *, workspace: Path) -> Path | None:
    """What the release recorded; one of an earlier version did not."""
    try:
        return open_registry(workspace).fetch_evidence(release, LEARNT)
    except ReleaseError:
        return None


def _count_known(ingested: Path, learnt: pa.Table | None, *, workspace: Path) -> dict[str, int]:
    """How many items have a near duplicate among the training and validation items of ``learnt``, where it is known."""
    if learnt is None:
        return {}
    distance = load_section(workspace / "params.yaml", "split", SplitParams).phash_distance
    used = learnt.filter(pc.not_equal(learnt["split"], HELD_OUT))
    items = read_items(ingested, columns=["phash"])
    near_N = mark_near(*(parse_hashes(table["phash"].to_pylist()) for table in (items, used)), distance=distance)
    return {"items_near_training": int(near_N.sum())}


def _score(gallery: Gallery, items: pa.Table, *, encoder: Encoder, workspace: Path) -> Scoreboard:
    params = load_section(workspace / "params.yaml", "evaluate", EvaluateParams)
    known = list_names(items)
    board = Scoreboard(replace(params, slices=tuple(name for name in params.slices if name in known)))
    score_gallery(board, encoder, gallery)
    if not board.summary:
        raise SourceError(
            "These pictures ask nothing that the release can answer, which reads no words: give them labels or groups, "
            "each shared by two; see docs/data.md."
        )
    return board
