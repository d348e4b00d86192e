"""How the last training and evaluation went: one page with figures, curves and pictures that needs no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cbir.errors import WorkspaceError
from cbir.evaluation_page.charts import draw_curves, draw_history
from cbir.evaluation_page.galleries import render_golden, render_queries
from cbir.evaluation_page.tables import render_composition, render_metrics, render_slices, render_split
from cbir.records import read_items, read_table
from cbir.report import write_page


def write_evaluation_page(workspace: Path) -> Path:
    """Write ``reports/evaluation.html`` from what the stages split, train and evaluate wrote.

    Raises:
        WorkspaceError: a file that a stage writes is missing; the message names the stage.
        ImageError: the picture of a golden query is no longer there.
    """
    evaluated = workspace / "data/evaluated"
    metrics = _read_json(workspace / "metrics.json", made_by="evaluate")
    statistics = _read_json(evaluated / "statistics.json", made_by="evaluate")
    split = _read_json(workspace / "data/split/split.json", made_by="split")
    history = _read_json(workspace / "data/encoder/history.json", made_by="train")
    items = read_items(workspace / "data/ingested", columns=["id", "image", "captions", "labels"])
    per_query = read_table(evaluated / "per_query.parquet", made_by="evaluate").to_pandas()
    golden = _read_json(evaluated / "golden.json", made_by="evaluate")
    sections = [
        render_metrics(metrics, statistics),
        render_composition(metrics, statistics),
        render_slices(_read_json(evaluated / "slices.json", made_by="evaluate"), metrics),
        render_split(split),
        "<h2>Training</h2>",
        draw_history(history),
        "<h2>Precision and recall</h2>",
        draw_curves(_read_json(evaluated / "curves.json", made_by="evaluate")),
        *render_golden(golden, items, folder=workspace / "golden"),
        *render_queries(per_query, items),
    ]
    path = workspace / "reports" / "evaluation.html"
    write_page(path, title="Evaluation", sections=sections)
    return path


def _read_json(path: Path, *, made_by: str) -> Any:
    if not path.exists():
        raise WorkspaceError(f"{path} is not there; run `dvc repro {made_by}` first.")
    return json.loads(path.read_text(encoding="utf-8"))
