"""How a cross-validation looks: its figures over the folds as a chart and as tables."""

from __future__ import annotations

from typing import Any

from cbir.evaluation_page.charts import draw_folds
from cbir.report import render_table

SPREAD = ("pooled", "low", "high", "mean", "deviation", "least", "greatest")
KINDS = {"figures": "figure", "gains": "gain"}


def render_folds(document: dict[str, Any]) -> list[str]:
    """Sections of the page, of what ``cbir.crossval`` writes."""
    figures, rows = document["figures"], document["rows"]
    if not figures:
        return ["<p>The items ask nothing of one another: give them captions or labels.</p>"]
    counts = [[f"{name} items", *(str(row[name]) for row in rows)] for name in ("train", "validation", "test")]
    return [
        f"<p>{document['items']:,} items in {document['clusters']:,} clusters; each is a test item of one fold, and "
        "groups and near duplicates are in one fold together. Figures are in percent. <em>Pooled</em> is the mean over "
        "the queries of all folds, <em>from</em> and <em>to</em> are its 95 % interval (bootstrap over clusters).</p>",
        draw_folds({name: [row["figures"][name] for row in rows if name in row["figures"]] for name in figures}),
        "<h2>Over the folds</h2>",
        _render_spread(document, "figures"),
        _render_gains(document),
        "<h2>Each fold</h2>",
        render_table(
            ["", *(f"fold {row['fold']}" for row in rows)],
            counts
            + [[name, *(percent(row[kind].get(name)) for row in rows)] for kind in KINDS for name in document[kind]],
        ),
    ]


def _render_gains(document: dict[str, Any]) -> str:
    """Nothing where only words ask: no rival answers them with pictures."""
    title = "<h2>By how much that is above what needs no training</h2>"
    return title + _render_spread(document, "gains") if document["gains"] else ""


def _render_spread(document: dict[str, Any], kind: str) -> str:
    head = [KINDS[kind], "pooled", "from", "to", "mean of folds", "standard deviation", "least", "greatest", "folds"]
    totals = document[kind].items()
    return render_table(
        head, [[name, *(percent(one[key]) for key in SPREAD), str(one["folds"])] for name, one in totals]
    )


def percent(value: float | None) -> str:
    """A figure as tables show it; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"
