"""Which tables of figures the page of an evaluation shows, with intervals and differences."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from cbir.report import format_p_value, render_table, render_words

METRICS = ("map", "mrr", "ndcg@10", "hit@1", "hit@10", "recall@10", "precision@10")
QUERIES = {
    "text_to_image": "Words search pictures: that of the item is relevant",
    "image_to_text": "A picture searches words: those of the item are relevant",
    "copy": "A changed copy of a picture searches pictures: the picture is relevant",
    "label": "An item searches items: those that share a label are relevant",
    "label_name": "What a label is called searches items as the index holds them: those that have it are relevant",
    "duplicate": "A picture searches pictures: its near duplicates and variants are relevant",
    "golden": "Golden queries search all items as the index holds them",
    "relative": "A picture and a change of it search pictures: the target is relevant",
    "relative_indexed": "A picture and a change of it search items as the index holds them",
}
SYSTEMS = {
    "fused": "the encoder",
    "fused_both": "the encoder, by picture and words",
    "fused_image": "the encoder, by the picture alone",
    "fused_text": "the encoder, by words alone",
    "fused_sum": "the sum of the encoder's own vectors of picture and words",
    "image_only": "the frozen image tower",
    "text_only": "the frozen text tower",
    "sum": "the sum of the frozen towers' cosines",
    "bm25": "the captions' words (BM25)",
    "histogram": "a histogram of colours",
    "lbp": "texture: local binary patterns",
    "gabor": "texture: Gabor filters",
    "orb": "the frozen image tower, its first hits verified by ORB keypoints and RANSAC",
}
SIDES = {"image": "fused_image", "text": "fused_text", "both": "fused_both"}
Row = Mapping[str, Any]


def render_metrics(metrics: Row, statistics: Row) -> str:
    """Every system's figures, a table a query set, and by how much the fused one is above the others."""
    tasks = sorted(metrics.items(), key=lambda entry: place_task(entry[0]))
    scored = {task: {name: row for name, row in systems.items() if isinstance(row, dict)} for task, systems in tasks}
    parts = [_render_task(task, systems, statistics.get(task, {})) for task, systems in scored.items() if systems]
    met = {name for systems in scored.values() for name in systems}
    named = [[name, words] for name, words in SYSTEMS.items() if name in met]
    legend = f'<h2 id="systems">What the systems are</h2>{render_words(["system", "is"], named)}' if named else ""
    return (
        "<p>Test items; figures in percent, with 95 % bootstrap intervals over clusters of near duplicates and "
        f"variants. The best mAP stands first; <a href='#systems'>what the systems are</a>.</p>{''.join(parts)}{legend}"
    )


def _render_task(task: str, systems: Row, statistics: Row) -> str:
    shown = [name for name in METRICS if any(name in row for row in systems.values())]
    known = {name: statistics.get(name, {}) for name in systems}
    ranked = sorted(systems, key=lambda name: -systems[name].get("map", 0.0))
    rows = [
        [name, *(_format_figure(systems[name], known[name].get("interval", {}), key) for key in shown)]
        for name in ranked
    ]
    title = f"<h2>{html.escape(QUERIES.get(task, task))}</h2>"
    compared = [_render_comparison(name, sure["above"]) for name, sure in known.items() if "above" in sure]
    return title + render_table([task, *shown], rows, best=0) + "".join(compared)


def render_composition(metrics: Row, statistics: Row) -> str:
    """What picture and words give alone and together, and how far together is above the better one and a plain sum."""
    rows = []
    for task, systems in sorted(metrics.items(), key=lambda entry: place_task(entry[0])):
        if not isinstance(systems, dict) or not set(systems).issuperset(SIDES.values()):
            continue
        known = statistics.get(task, {})
        figures = [_format_figure(systems[s], known.get(s, {}).get("interval", {}), "map") for s in SIDES.values()]
        above = known.get(SIDES["both"], {}).get("above", {})
        best = max(("fused_image", "fused_text"), key=lambda system: systems[system]["map"])
        gaps = [_format_gap(above[name]) if name in above else "-" for name in (best, "fused_sum", "sum")]
        rows.append([task, *figures, *gaps])
    if not rows:
        return ""
    header = ["mAP", *SIDES, "both - better one", "both - fused_sum", "both - sum"]
    return (
        "<h2>Picture, words, and both</h2><p>fused_sum adds the encoder's own vectors of picture and words, sum the "
        f"cosines of the frozen towers.</p>{render_table(header, rows)}"
    )


def render_slices(slices: Row, metrics: Row, statistics: Row) -> str:
    """The fused system's figures by kind of item, beside those of all; nothing where all items are of one kind."""
    parts = []
    for name, tasks in slices.items():
        for task, found in sorted(tasks.items(), key=lambda entry: place_task(entry[0])):
            if len(found["scored"]) + found["too_few_slices"] < 2:
                continue
            few = ", ".join(f"{value} ({count})" for value, count in found["too_few"].items())
            whole = metrics.get(task, {}).get(found["system"], {})
            shown = [key for key in ("map", "hit@1", "hit@10") if key in whole]
            sure = statistics.get(task, {}).get(found["system"], {}).get("interval", {})
            rows = (
                [["all", str(whole["queries"]), *(_format_figure(whole, sure, key) for key in shown)]] if whole else []
            )
            for value, row in found["scored"].items():
                figures = [_format_figure(row, row["interval"], key) for key in shown]
                rows.append([value, str(row["queries"]), *figures])
            if found["scored"]:
                parts.append(f"<h3>{html.escape(f'{task}, by {name} of the item that asks')}</h3>")
                parts.append(render_table([found["system"], "queries", *shown], rows))
            if few:
                parts.append(
                    f"<p>{html.escape(f'{task}, by {name}')}, too few queries to score: {html.escape(few)}</p>"
                )
    return f"<h2>By kind of item</h2>{''.join(parts)}" if parts else ""


def render_split(split: Row) -> str:
    """How many items train and test, and what near duplicates could have leaked between them."""
    names = {
        "train": "training items",
        "validation": "validation items",
        "test": "test items",
        "clusters": "clusters of near duplicates and variants",
        "largest_cluster": "items in the largest cluster",
        "leaking_clusters": "clusters that a split given with the data tears apart",
        "test_items_near_training": "test items with a near duplicate among those learnt from",
    }
    rows = [[name, f"{split[key]:,}"] for key, name in names.items() if key in split]
    return f"<h2>Training and test items</h2>{render_table(['of the last split', 'number'], rows)}"


def place_task(task: str) -> int:
    """Where a query set stands on the page."""
    return list(QUERIES).index(task) if task in QUERIES else len(QUERIES)


def _format_figure(row: dict[str, Any], interval: dict[str, dict[str, float]], key: str) -> str:
    if key not in row:
        return "-"
    if key not in interval:
        return f"{100 * row[key]:.1f}"
    return f"{100 * row[key]:.1f} ({100 * interval[key]['low']:.1f}\N{EN DASH}{100 * interval[key]['high']:.1f})"


def _format_gap(row: Row) -> str:
    return f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"


def _render_comparison(system: str, above: Mapping[str, Row]) -> str:
    """By how many points of mAP a system is above each other one, answering the same queries."""
    rows = [[other, _format_gap(row), format_p_value(row["p_value"])] for other, row in above.items()]
    return f"<p></p>{render_table([f'{system} above', 'points of mAP', 'p'], rows)}"
