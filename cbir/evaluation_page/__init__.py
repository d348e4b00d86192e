"""How the last training and evaluation went: one page with figures, curves and pictures that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from cbir.errors import WorkspaceError
from cbir.evaluation_page.charts import draw_curves, draw_history
from cbir.evaluation_page.galleries import list_shown, render_examples, render_golden
from cbir.evaluation_page.tables import render_composition, render_metrics, render_slices, render_split
from cbir.outputs import read_data_revision
from cbir.records import read_json, select_items
from cbir.report import format_moment, render_facts, write_page
from cbir.scoreboard import CURVES, EXAMPLES, GOLDEN, SLICES, STATISTICS

COLUMNS = ["id", "image", "captions", "labels"]


def write_evaluation_page(workspace: Path, *, now: datetime) -> Path:
    """Write ``reports/evaluation.html`` from what the stages split, train and evaluate wrote.

    Raises:
        WorkspaceError: a file that a stage writes is missing; the message names the stage.
        ImageError: the picture of a golden query is no longer there.
    """
    metrics = _read_json(workspace / "metrics.json", made_by="evaluate")
    scores = workspace / "data/evaluated"
    items = _read_shown(workspace / "data/ingested", scores)
    figures, queries = _render_scores(scores, metrics, items, golden=workspace / "golden")
    split = _read_json(workspace / "data/split/split.json", made_by="split")
    history = _read_json(workspace / "data/encoder/history.json", made_by="train")
    training = [render_split(split), "<h2>Training</h2>", draw_history(history)]
    path = workspace / "reports" / "evaluation.html"
    head = render_facts(_list_facts(workspace, metrics, now=now))
    write_page(path, title="Evaluation", sections=[head, *figures, *training, *queries])
    return path


def write_outside_page(
    path: Path, *, title: str, head: Sequence[str], scores: Path, metrics: dict[str, Any], items: pa.Table
) -> None:
    """Write the page of an evaluation on other items, of which ``scores`` is what ``write_scores`` wrote.

    ``head`` are the sections above the figures.
    """
    figures, queries = _render_scores(scores, metrics, items, golden=scores)
    write_page(path, title=title, sections=[*head, *figures, *queries])


def _list_facts(workspace: Path, metrics: dict[str, Any], *, now: datetime) -> dict[str, str]:
    """What the workspace knows of what was evaluated; which release it became, if any, the registry knows."""
    embedded, revision = workspace / "data/embedded/embedded.json", read_data_revision(workspace)
    encoder = {"encoder": read_json(embedded)["fingerprint"]} if embedded.exists() else {}
    data = {"data revision": revision} if revision else {}
    counts = {name.replace("_", " "): f"{count:,}" for name, count in metrics.get("counts", {}).items()}
    return encoder | data | counts | {"written": format_moment(now)}


def _read_shown(ingested: Path, scores: Path) -> pa.Table:
    """The items that the page shows, and no other picture of the catalogue."""
    hits, examples = (_read_json(scores / name, made_by="evaluate") for name in (GOLDEN, EXAMPLES))
    return pa.concat_tables(select_items(ingested, list_shown(hits, examples), columns=COLUMNS))


def _render_scores(
    scores: Path, metrics: dict[str, Any], items: pa.Table, *, golden: Path
) -> tuple[list[str], list[str]]:
    """Tables of figures; and curves and queries as pictures."""
    statistics, slices, curves, hits, examples = (
        _read_json(scores / name, made_by="evaluate") for name in (STATISTICS, SLICES, CURVES, GOLDEN, EXAMPLES)
    )
    figures = [
        render_metrics(metrics, statistics),
        render_composition(metrics, statistics),
        render_slices(slices, metrics, statistics),
    ]
    curve = ["<h2>Precision and recall</h2>", draw_curves(curves)]
    return figures, [*curve, *render_golden(hits, items, folder=golden), *render_examples(examples, items)]


def _read_json(path: Path, *, made_by: str) -> Any:
    if not path.exists():
        raise WorkspaceError(f"{path} is not there; run `dvc repro {made_by}` first.")
    return read_json(path)
