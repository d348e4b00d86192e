"""Which queries the page of an evaluation shows as pictures: the best, the worst, and the user's own."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from PIL import Image

from cbir.answers import find_fused
from cbir.images import decode_png, load_query_image
from cbir.index import Hit
from cbir.report import render_gallery

SHOWN = 7
SIDE = 128  # pixels


def render_queries(per_query: pd.DataFrame, items: pa.Table) -> list[str]:
    """Of each query set, the fused system's queries with the highest and the lowest average precision."""
    rows = {id_: n for n, id_ in enumerate(items["id"].to_pylist())}
    sections = []
    for task, of_task in per_query.groupby("task", sort=False):
        if task == "golden":
            continue
        systems = list(of_task["system"].unique())
        system = find_fused(systems) or systems[0]
        ranked = of_task[of_task["system"] == system].sort_values(["average_precision", "query"], kind="stable")
        pairs = list(zip(ranked["query"], ranked["average_precision"], strict=True))
        for word, chosen in (("best", pairs[::-1][:SHOWN]), ("worst", pairs[:SHOWN])):
            hits = [_show_item(items, rows[id_], score=ap) for id_, ap in chosen if id_ in rows]
            sections.append(render_gallery(f"{task}, {system}: {word} queries by average precision", hits))
    return sections


def render_golden(queries: Sequence[Mapping[str, Any]], items: pa.Table, *, folder: Path) -> list[str]:
    """Every golden query, its picture if it has one, and its first hits with the grade that the user gave each."""
    rows = {id_: n for n, id_ in enumerate(items["id"].to_pylist())}
    sections = ["<h2>Golden queries</h2>"] if queries else []
    for query in queries:
        words = " + ".join(part for part in (query["text"], query["image"]) if part)
        shown = [_show_query(query, folder / query["image"])] if query["image"] else []
        for hit in query["hits"]:
            note = f"grade {hit['grade']}" if hit["grade"] else "not relevant"
            shown.append(_show_item(items, rows[hit["id"]], score=hit["score"], label=note))
        title = f"{query['query']}: {words} (average precision {query['average_precision']:.2f})"
        sections.append(render_gallery(title, shown))
    return sections


def _show_query(query: Mapping[str, Any], path: Path) -> Hit:
    return _show(load_query_image(path), id_=query["query"], caption="the query's picture", label="", score=1.0)


def _show_item(items: pa.Table, row: int, *, score: float, label: str | None = None) -> Hit:
    item = items.slice(row, 1).to_pylist()[0]
    first = item["labels"][0] if item["labels"] else ""
    caption = item["captions"][0] if item["captions"] else ""
    return _show(
        decode_png(item["image"]),
        id_=item["id"],
        caption=caption,
        label=first if label is None else label,
        score=score,
    )


def _show(picture: Image.Image, *, id_: str, caption: str, label: str, score: float) -> Hit:
    buffer = io.BytesIO()
    picture.resize((SIDE, SIDE)).save(buffer, "JPEG", quality=85)
    return Hit(
        id=id_,
        score=float(score),
        caption=caption,
        label=label,
        source_path="",
        attributes={},
        thumbnail=buffer.getvalue(),
    )
