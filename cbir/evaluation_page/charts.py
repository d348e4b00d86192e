"""How a training history and precision-recall curves are drawn: SVG inside the page."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = tuple(TABLEAU_COLORS.values())
FEW = 6  # lines whose legend is one column


def draw_history(history: list[dict[str, Any]]) -> str:
    """Losses, and the figures on validation items, by epoch."""
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish(axes, title=label, x="epoch", y="")
    return _to_svg(figure)


def draw_curves(curves: list[dict[str, Any]]) -> str:
    """Precision by recall, a plot a query set; where each query has one relevant item curves are flat and left out."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in curves:
        points.setdefault(row["task"], {}).setdefault(row["system"], []).append((row["recall"], row["precision"]))
    points = {task: systems for task, systems in points.items() if not all(map(_is_flat, systems.values()))}
    if not points:
        return "<p>There are no curves: no query has more than one relevant item.</p>"
    figure = Figure(figsize=(10.5, 3.6 * ((len(points) + 1) // 2)), layout="constrained")
    for axes, (task, systems) in zip(_list_axes(figure, len(points), columns=2), points.items(), strict=False):
        axes.set_prop_cycle(cycler(linestyle=["-", "--"]) * cycler(color=COLOURS))
        for system, line in systems.items():
            axes.plot(*zip(*line, strict=True), marker="o", markersize=3, label=system)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        _finish(axes, title=task, x="recall", y="precision")
    return _to_svg(figure)


def _is_flat(line: Sequence[tuple[float, float]]) -> bool:
    return len({round(precision, 9) for _, precision in line}) < 2


def draw_folds(folds: Mapping[str, Sequence[float]]) -> str:
    """A dot a fold and a bar at their mean, a line a figure, in percent."""
    figure = Figure(figsize=(10.5, 0.8 + 0.36 * len(folds)), layout="constrained")
    axes = figure.add_subplot()
    for place, shares in enumerate(folds.values()):
        values = [100 * share for share in shares]
        axes.scatter(values, [place] * len(values), s=28, alpha=0.6, color=COLOURS[0], label="a fold")
        mean = sum(values) / len(values)
        axes.plot([mean, mean], [place - 0.3, place + 0.3], color=COLOURS[1], linewidth=2, label="mean of the folds")
    axes.set_yticks(range(len(folds)), list(folds))
    axes.invert_yaxis()
    axes.set_xlim(-2, 102)
    _finish(axes, title="", x="score in percent", y="")
    handles, names = axes.get_legend_handles_labels()
    axes.legend(handles[:2], names[:2], fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
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
    axes.legend(fontsize=7, frameon=False, ncols=2 if len(axes.lines) > FEW else 1)


def _to_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg", '<svg style="max-width:100%;height:auto"', 1)


def group_history(history: Iterable[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """The figures of a training history by name, as (epoch, value); an epoch may lack any of them."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in history:
        for name, value in row.items():
            if name != "epoch" and isinstance(value, (int, float)) and not isinstance(value, bool):
                series.setdefault(name, []).append((row["epoch"], value))
    return series
