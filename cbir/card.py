"""What a reviewer of a release must know: its figures beside the champion's, and the queries that got worse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cbir.answers import FUSED, KEY_FIGURES, find_fused
from cbir.errors import ReleaseError
from cbir.images import decode_png, make_thumbnail
from cbir.records import read_json, read_table, select_items
from cbir.registry import Registry, Release, flatten_metrics
from cbir.registry.history import stack_champions
from cbir.statistics import compare_systems

WORSE = 12  # queries that are shown
SCORES = ["metric", "query", "cluster", "before", "after"]
THUMBNAIL = 128


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One metric: its value, its 95 % interval, and the champion's value, each where it is known."""

    metric: str
    value: float
    low: float | None
    high: float | None
    before: float | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric on the queries that both answered: how many, of how many clusters, the difference and interval."""

    metric: str
    queries: int
    difference: float
    low: float
    high: float
    p_value: float
    clusters: int


@dataclass(frozen=True, kw_only=True)
class WorseQuery:
    """A query that the champion answered better; ``thumbnail`` is a JPEG, or empty where it has no picture."""

    metric: str
    query: str
    caption: str
    before: float
    after: float
    thumbnail: bytes


@dataclass(frozen=True, kw_only=True)
class Card:
    """A release as a reviewer reads it; ``against`` is the version of the champion."""

    release: Release
    against: str | None
    encoder: Mapping[str, Any]
    counts: Mapping[str, float]
    figures: list[Figure]
    differences: list[Difference]
    slices: list[tuple[str, Figure]]
    worse: list[WorseQuery]
    worse_in_all: int
    validation: Mapping[str, Any] | None
    gate: Mapping[str, Any] | None


def gather_card(workspace: Path, *, registry: Registry, release: Release) -> Card:
    """Read a release's evidence and its champion's; pictures of queries come from ``data/ingested``.

    Raises:
        ReleaseError: the release's own evidence cannot be had.
        WorkspaceError: an output of a stage is missing.
    """
    champion = find_opponent(registry, release)
    metrics = _read_json(registry, release, "metrics.json")
    statistics = _read_optional(registry, release, "statistics.json") or {}
    before = _read_optional(registry, champion, "metrics.json") or {}
    scores = _read_scores(registry, release, champion, split=workspace / "data/split/split.parquet")
    worse = select_worse(scores)
    return Card(
        release=release,
        against=champion.version if champion else None,
        encoder=read_json(registry.download_encoder(release) / "encoder.json"),
        counts=metrics.get("counts", {}),
        figures=list(list_figures(metrics, statistics, before)),
        differences=list(compare_scores(scores)),
        slices=list(
            list_slices(
                _read_optional(registry, release, "slices.json") or {},
                _read_optional(registry, champion, "slices.json") or {},
            )
        ),
        worse=_show_queries(worse.head(WORSE), ingested=workspace / "data/ingested"),
        worse_in_all=len(worse),
        validation=_read_optional(registry, release, "validation.json"),
        gate=_read_optional(registry, release, "gate.json"),
    )


def find_opponent(registry: Registry, release: Release) -> Release | None:
    """The release that this one is compared with: the champion, or what was so before, where this one is live."""
    champion = registry.find_champion()
    if champion is None or champion.version != release.version:
        return champion
    known = {one.version: one for one in registry.list_releases()}
    earlier = [version for version in stack_champions(registry.read_history()) if version != release.version]
    return next((known[version] for version in reversed(earlier) if version in known), None)


def list_figures(
    metrics: Mapping[str, Any], statistics: Mapping[str, Any], before: Mapping[str, Any]
) -> Iterator[Figure]:
    """Of every task the figures of the system that goes live."""
    theirs = flatten_metrics(before)
    for task, systems in metrics.items():
        system = find_fused(systems)
        for name in KEY_FIGURES:
            if system is not None and name in systems[system]:
                interval = statistics.get(task, {}).get(system, {}).get("interval", {}).get(name, {})
                metric = f"{task}.{system}.{name}"
                yield Figure(
                    metric=metric,
                    value=systems[system][name],
                    low=interval.get("low"),
                    high=interval.get("high"),
                    before=theirs.get(metric),
                )


def list_slices(slices: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """The mean average precision of every slice that has enough queries, as (slice, figure)."""
    for name, query_sets in slices.items():
        for query_set, measured in query_sets.items():
            theirs = before.get(name, {}).get(query_set, {}).get("scored", {})
            for part, row in measured["scored"].items():
                interval = row["interval"]["map"]
                yield (
                    f"{name}={part}",
                    Figure(
                        metric=f"{query_set}.{measured['system']}.map",
                        value=row["map"],
                        low=interval["low"],
                        high=interval["high"],
                        before=theirs.get(part, {}).get("map"),
                    ),
                )


def pair_scores(before: pd.DataFrame, after: pd.DataFrame, *, clusters: Mapping[str, str]) -> pd.DataFrame:
    """Average precision of each query that both releases answered, as ``SCORES``.

    Both frames are ``per_query.parquet`` as `evaluate` writes it. A query that was asked more than once, such as a
    picture with several wishes, is paired in order, and left out where one release was asked more often.
    """
    key = ["task", "system", "query"]
    frames = []
    for frame in (before, after):
        frame = frame[frame["system"].isin(FUSED)]
        turn = frame.groupby(key).cumcount()
        times = frame.groupby(key)["query"].transform("size")
        frames.append(frame.assign(turn=turn, times=times))
    both = frames[0].merge(frames[1], on=[*key, "turn", "times"], suffixes=("_before", "_after"))
    tasks = both.groupby("task")["system"].transform(find_fused)
    both = both[both["system"] == tasks]
    return pd.DataFrame(
        {
            "metric": both["task"] + "." + both["system"] + ".map",
            "query": both["query"],
            "cluster": [clusters.get(query, query) for query in both["query"]],
            "before": both["average_precision_before"],
            "after": both["average_precision_after"],
        }
    ).reset_index(drop=True)


def compare_scores(scores: pd.DataFrame) -> Iterator[Difference]:
    """By how much the release is above the champion on the same queries, metric by metric."""
    for metric, rows in scores.groupby("metric", sort=False):
        found = compare_systems(
            rows["after"].to_numpy(),
            rows["before"].to_numpy(),
            rows["cluster"].to_numpy(str),
            rng=np.random.default_rng(0),
        )
        yield Difference(metric=str(metric), queries=len(rows), **asdict(found))


def select_worse(scores: pd.DataFrame) -> pd.DataFrame:
    """Rows of queries that the champion answered better, those that lost most first."""
    worse = scores[scores["after"] < scores["before"]]
    order = (worse["after"] - worse["before"]).sort_values(kind="stable").index
    return worse.loc[order].reset_index(drop=True)


def _read_scores(registry: Registry, release: Release, champion: Release | None, *, split: Path) -> pd.DataFrame:
    """The gate's contest, where it was held against this champion, for there both answer over the same items."""
    if champion is None:
        return pd.DataFrame(columns=SCORES)
    contest = _fetch_optional(registry, release, "scores.parquet")
    if contest is not None and release.tags.get("gate.champion") == champion.version:
        frame = read_table(contest, made_by="evaluate").to_pandas()
        frame = frame.rename(columns={"champion": "before", "challenger": "after"})
        return frame[SCORES]
    files = [_fetch_optional(registry, one, "per_query.parquet") for one in (champion, release)]
    if None in files:
        return pd.DataFrame(columns=SCORES)
    before, after = (read_table(file, made_by="evaluate").to_pandas() for file in files if file)
    rows = read_table(split, made_by="split")
    clusters = dict(zip(rows["id"].to_pylist(), rows["cluster"].to_pylist(), strict=True))
    return pair_scores(before, after, clusters=clusters)


def _show_queries(worse: pd.DataFrame, *, ingested: Path) -> list[WorseQuery]:
    if worse.empty:
        return []
    found = select_items(ingested, worse["query"].to_list(), columns=["id", "image", "original_captions"])
    items = {item["id"]: item for part in found for item in part.to_pylist()}
    shown = []
    for metric, query, before, after in worse[["metric", "query", "before", "after"]].itertuples(index=False):
        item = items.get(query)
        shown.append(
            WorseQuery(
                metric=metric,
                query=query,
                caption=next(iter(item["original_captions"]), "") if item else "",
                before=float(before),
                after=float(after),
                thumbnail=make_thumbnail(decode_png(item["image"]), side=THUMBNAIL) if item else b"",
            )
        )
    return shown


def _read_json(registry: Registry, release: Release, name: str) -> Any:
    return read_json(registry.fetch_evidence(release, name))


def _read_optional(registry: Registry, release: Release | None, name: str) -> Any:
    """What an earlier version of cbir-ops, or a release without a gate, may not have registered."""
    path = _fetch_optional(registry, release, name)
    return None if path is None else read_json(path)


def _fetch_optional(registry: Registry, release: Release | None, name: str) -> Path | None:
    try:
        return registry.fetch_evidence(release, name) if release else None
    except ReleaseError:
        return None
