"""Which queries the page of an evaluation shows as pictures: the best, the worst, and the user's own."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from cbir.copies import ASKED, change_pictures
from cbir.evaluation_page.tables import QUERIES, place_task
from cbir.images import decode_png, load_query_image, make_thumbnail
from cbir.index import Hit
from cbir.report import render_gallery, render_hits

SIDE = 128  # pixels
ASKS = math.nan  # the score of what asks: none


def list_shown(golden: Sequence[Mapping[str, Any]], examples: Mapping[str, Any]) -> list[str]:
    """The ids of all items that ``render_golden`` and ``render_examples`` show."""
    queries = [query for found in examples.values() for kind in ("best", "worst") for query in found[kind]]
    asking = {query["picture"] for query in queries if query["picture"]}
    hits = {hit["id"] for query in [*golden, *queries] for hit in query["hits"]}
    return sorted(asking | hits | {wanted["id"] for wanted in map(_find_wanted, queries) if wanted})


def render_examples(examples: Mapping[str, Any], items: pa.Table) -> list[str]:
    """Of each query set the best and the worst answered queries: what asks, then the first hits, relevant framed.

    Where none of them is relevant, the first that is stands at the end with its rank.
    """
    rows = {id_: n for n, id_ in enumerate(items["id"].to_pylist())}
    note = "What is relevant is framed; where none of the first hits is, the first relevant one follows with its rank."
    sections = [f"<h2>Queries and their first hits</h2><p>{note}</p>"] if examples else []
    for task, found in sorted(examples.items(), key=lambda entry: place_task(entry[0])):
        sections.append(f"<h2>{html.escape(QUERIES.get(task, task))}: {html.escape(found['system'])}</h2>")
        for kind in ("best", "worst"):
            sections += [_render_example(query, items, rows, kind=kind, task=task) for query in found[kind]]
    return sections


def _render_example(query: Mapping[str, Any], items: pa.Table, rows: Mapping[str, int], *, kind: str, task: str) -> str:
    words = query["words"] or query["query"]
    title = f"<h3>{kind}, average precision {query['average_precision']:.2f}: {html.escape(words)}</h3>"
    asks = [_show_asker(items, rows[query["picture"]], task=task)] if query["picture"] in rows else []
    hits = [hit for hit in query["hits"] if hit["id"] in rows]
    shown = [_show_item(items, rows[hit["id"]], score=hit["score"]) for hit in hits]
    wanted = _find_wanted(query)
    framed = [place for place, hit in enumerate(hits, start=len(asks)) if hit["relevant"]]
    if wanted and wanted["id"] in rows:
        framed.append(len(asks) + len(shown))
        label = f"relevant, rank {wanted['rank']:,}"
        shown.append(_show_item(items, rows[wanted["id"]], score=wanted["score"], label=label))
    return title + render_hits([*asks, *shown], framed=framed)


def _show_asker(items: pa.Table, row: int, *, task: str) -> Hit:
    """The picture that an example asks with: an item's, or the changed copy of it that the evaluation made."""
    item = items.slice(row, 1)
    if task != "copy":
        return _show_item(item, 0, score=ASKS, label="asks")
    copy = change_pictures(item["image"].to_pylist(), seed=ASKED)["image"]
    changed = item.set_column(item.schema.get_field_index("image"), "image", copy)
    return _show_item(changed, 0, score=ASKS, label="asks, changed")


def _find_wanted(query: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first relevant item, where none is among the hits; evaluations of earlier versions do not say it."""
    found = any(hit["relevant"] for hit in query["hits"])
    return None if found else query.get("wanted")


def render_golden(queries: Sequence[Mapping[str, Any]], items: pa.Table, *, folder: Path) -> list[str]:
    """Every golden query, its picture if it has one, and its first hits with the grade that the user gave each."""
    rows = {id_: n for n, id_ in enumerate(items["id"].to_pylist())}
    sections = ["<h2>Golden queries</h2>"] if queries else []
    for query in queries:
        words = " + ".join(part for part in (query["text"], query["image"]) if part)
        shown = [show_asking(folder / query["image"])] if query["image"] else []
        for hit in (hit for hit in query["hits"] if hit["id"] in rows):  # the items may have moved on
            note = f"grade {hit['grade']}" if hit["grade"] else "not relevant"
            shown.append(_show_item(items, rows[hit["id"]], score=hit["score"], label=note))
        title = f"{query['query']}: {words} (average precision {query['average_precision']:.2f})"
        sections.append(render_gallery(title, shown))
    return sections


def show_asking(path: Path) -> Hit:
    """The picture that a query asks with, to stand before its hits.

    Raises:
        ImageError: it cannot be read.
    """
    return _show(load_query_image(path), id_=path.name, caption="the query's picture", label="", score=ASKS)


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
    return Hit(
        id=id_,
        score=float(score),
        caption=caption,
        label=label,
        source_path="",
        attributes={},
        thumbnail=make_thumbnail(picture, side=SIDE),
    )
