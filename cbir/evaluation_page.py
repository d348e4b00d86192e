"""How the last training and evaluation went: one page with figures, curves and pictures that needs no network."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cbir.errors import WorkspaceError
from cbir.images import decode_png
from cbir.index import Hit
from cbir.records import read_items, read_table
from cbir.report import render_gallery, render_table, write_page

SHOWN = 7
METRICS = ("map", "mrr", "ndcg@10", "hit@1", "hit@10", "recall@10", "precision@10")
QUERIES = {
    "text_to_image": "Words search pictures: the item's own picture is relevant",
    "image_to_text": "A picture searches words: the item's own words are relevant",
    "label": "An item searches items: those that share a label are relevant",
    "golden": "Golden queries search all items as the index holds them",
    "relative": "A picture and a change of it search pictures: the target is relevant",
    "relative_indexed": "A picture and a change of it search items as the index holds them",
}


def write_evaluation_page(workspace: Path) -> Path:
    """Write ``reports/evaluation.html`` from ``metrics.json``, the training history, curves and per-query results.

    Raises:
        WorkspaceError: a file that a stage writes is missing; the message names the stage.
    """
    metrics = _read_json(workspace / "metrics.json", made_by="evaluate")
    statistics = _read_json(workspace / "data/evaluated/statistics.json", made_by="evaluate")
    curves = _read_json(workspace / "data/evaluated/curves.json", made_by="evaluate")
    history = _read_json(workspace / "data/encoder/history.json", made_by="train")
    sections = [_render_metrics(metrics, statistics), "<h2>Training</h2>", _draw_history(history)]
    sections += ["<h2>Precision and recall</h2>", _draw_curves(curves), *_render_queries(workspace)]
    path = workspace / "reports" / "evaluation.html"
    write_page(path, title="Evaluation", sections=sections)
    return path


def group_history(history: Iterable[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """The figures of a training history by name, as (epoch, value); an epoch may lack any of them."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in history:
        for name, value in row.items():
            if name != "epoch" and isinstance(value, (int, float)) and not isinstance(value, bool):
                series.setdefault(name, []).append((row["epoch"], value))
    return series


def _read_json(path: Path, *, made_by: str) -> Any:
    if not path.exists():
        raise WorkspaceError(f"{path} is not there; run `dvc repro {made_by}` first.")
    return json.loads(path.read_text(encoding="utf-8"))


def _render_metrics(metrics: dict[str, Any], statistics: dict[str, Any]) -> str:
    parts = []
    for task, systems in metrics.items():
        scored = {name: row for name, row in systems.items() if isinstance(row, dict)}
        if scored:
            shown = [name for name in METRICS if any(name in row for row in scored.values())]
            known = {name: statistics.get(task, {}).get(name, {}) for name in scored}
            rows = [
                [name, *(_format_figure(row, known[name].get("interval", {}), key) for key in shown)]
                for name, row in scored.items()
            ]
            parts.append(f"<h2>{html.escape(QUERIES.get(task, task))}</h2>")
            parts.append(render_table([task, *shown], rows))
            parts += [_render_comparison(name, sure["above"]) for name, sure in known.items() if "above" in sure]
    return (
        "<p>Test items; figures in percent, with 95 % bootstrap intervals over clusters of near duplicates and "
        f"variants.</p>{''.join(parts)}"
    )


def _format_figure(row: dict[str, Any], interval: dict[str, dict[str, float]], key: str) -> str:
    if key not in row:
        return "-"
    if key not in interval:
        return f"{100 * row[key]:.1f}"
    return f"{100 * row[key]:.1f} ({100 * interval[key]['low']:.1f}\N{EN DASH}{100 * interval[key]['high']:.1f})"


def _render_comparison(system: str, above: dict[str, dict[str, float]]) -> str:
    """By how many points of mAP a system is above each other one, answering the same queries."""
    rows = [
        [
            other,
            f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})",
            f"{row['p_value']:.4f}",
        ]
        for other, row in above.items()
    ]
    return f"<p></p>{render_table([f'{system} above', 'points of mAP', 'p'], rows)}"


def _draw_history(history: list[dict[str, Any]]) -> str:
    series = group_history(history)
    losses = {name: points for name, points in series.items() if "loss" in name}
    rest = {name: points for name, points in series.items() if name not in losses}
    groups = [(label, group) for label, group in (("loss", losses), ("validation items", rest)) if group]
    if not groups:
        return "<p>The history is empty.</p>"
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    for axes, (label, group) in zip(_list_axes(figure, len(groups), columns=2), groups, strict=False):
        for name, points in group.items():
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        _finish(axes, title=label, x="epoch", y="")
    return _to_svg(figure)


def _draw_curves(curves: list[dict[str, Any]]) -> str:
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in curves:
        points.setdefault(row["task"], {}).setdefault(row["system"], []).append((row["recall"], row["precision"]))
    if not points:
        return "<p>There are no curves.</p>"
    figure = Figure(figsize=(10.5, 3.6 * ((len(points) + 1) // 2)), layout="constrained")
    for axes, (task, systems) in zip(_list_axes(figure, len(points), columns=2), points.items(), strict=False):
        for system, line in systems.items():
            axes.plot(*zip(*line, strict=True), marker="o", markersize=3, label=system)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        _finish(axes, title=task, x="recall", y="precision")
    return _to_svg(figure)


def _list_axes(figure: Figure, count: int, *, columns: int) -> list[Axes]:
    rows = (count + columns - 1) // columns
    return [figure.add_subplot(rows, columns, n + 1) for n in range(count)]


def _finish(axes: Axes, *, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _to_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg", '<svg style="max-width:100%;height:auto"', 1)


def _render_queries(workspace: Path) -> list[str]:
    """Of each task, the fused system's queries with the highest and the lowest average precision."""
    frame = read_table(workspace / "data/evaluated/per_query.parquet", made_by="evaluate").to_pandas()
    items = read_items(workspace / "data/ingested", columns=["id", "image", "captions", "labels"])
    rows = {id_: n for n, id_ in enumerate(items["id"].to_pylist())}
    sections = []
    for task, of_task in frame.groupby("task", sort=False):
        systems = list(of_task["system"].unique())
        system = next((name for name in ("fused_both", "fused") if name in systems), systems[0])
        ranked = of_task[of_task["system"] == system].sort_values(["average_precision", "query"], kind="stable")
        pairs = list(zip(ranked["query"], ranked["average_precision"], strict=True))
        for word, chosen in (("best", pairs[::-1][:SHOWN]), ("worst", pairs[:SHOWN])):
            hits = [_show_item(items, rows[id_], score=ap) for id_, ap in chosen if id_ in rows]
            sections.append(render_gallery(f"{task}, {system}: {word} queries by average precision", hits))
    return sections


def _show_item(items: Any, row: int, *, score: float) -> Hit:
    item = items.slice(row, 1).to_pylist()[0]
    buffer = io.BytesIO()
    decode_png(item["image"]).resize((128, 128)).save(buffer, "JPEG", quality=85)
    labels: Sequence[str] = item["labels"]
    return Hit(
        id=item["id"],
        score=float(score),
        caption=item["captions"][0] if item["captions"] else "",
        label=labels[0] if labels else "",
        source_path="",
        attributes={},
        thumbnail=buffer.getvalue(),
    )
