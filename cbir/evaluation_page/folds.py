"""How a cross-validation looks: its figures over the folds as a chart and as tables."""

from __future__ import annotations

from typing import Any

from cbir.evaluation_page.charts import draw_folds
from cbir.report import render_table

SPREAD = ("mean", "deviation", "least", "greatest")


def render_folds(document: dict[str, Any]) -> list[str]:
    """Sections of the page, of what ``cbir.crossval`` writes."""
    figures, rows = document["figures"], document["rows"]
    if not figures:
        return ["<p>The items ask nothing of one another: give them captions or labels.</p>"]
    summary = [[name, *(percent(total[key]) for key in SPREAD), str(total["folds"])] for name, total in figures.items()]
    counts = [[f"{name} items", *(str(row[name]) for row in rows)] for name in ("train", "validation", "test")]
    each = [[name, *(percent(row["figures"].get(name)) for row in rows)] for name in figures]
    return [
        f"<p>{document['items']:,} items in {document['clusters']:,} clusters; each is a test item of one fold, and "
        "groups and near duplicates are in one fold together. Tables are in percent.</p>",
        draw_folds({name: [row["figures"][name] for row in rows if name in row["figures"]] for name in figures}),
        "<h2>Over the folds</h2>",
        render_table(["figure", "mean", "standard deviation", "least", "greatest", "folds"], summary),
        "<h2>Each fold</h2>",
        render_table(["", *(f"fold {row['fold']}" for row in rows)], counts + each),
    ]


def percent(value: float | None) -> str:
    """A figure as tables show it; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"
