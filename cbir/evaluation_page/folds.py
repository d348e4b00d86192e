"""How a cross-validation looks: its figures over the folds as a chart and as tables."""

from __future__ import annotations

from typing import Any

from cbir.evaluation_page.charts import draw_folds
from cbir.report import render_table


def render_folds(document: dict[str, Any]) -> list[str]:
    """Sections of the page, of what ``cbir.crossval`` writes."""
    figures, rows = document["figures"], document["rows"]
    if not figures:
        return ["<p>The items ask nothing of one another: give them captions or labels.</p>"]
    summary = [
        [name, *(f"{100 * total[key]:.1f}" for key in ("mean", "deviation", "least", "greatest")), str(total["folds"])]
        for name, total in figures.items()
    ]
    each = [
        [str(row["fold"]), *(str(row[name]) for name in ("train", "validation", "test"))]
        + [f"{100 * row['figures'][name]:.1f}" if name in row["figures"] else "-" for name in figures]
        for row in rows
    ]
    return [
        f"<p>{document['items']:,} items in {document['clusters']:,} clusters; each is a test item of one fold, and "
        "groups and near duplicates are in one fold together. Figures are in percent.</p>",
        draw_folds({name: [row["figures"][name] for row in rows if name in row["figures"]] for name in figures}),
        "<h2>Over the folds</h2>",
        render_table(["figure", "mean", "standard deviation", "least", "greatest", "folds"], summary),
        "<h2>Each fold</h2>",
        render_table(["fold", "train", "validation", "test", *figures], each),
    ]
