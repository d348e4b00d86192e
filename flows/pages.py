"""What a run leaves in Prefect's pages for a reviewer: the gate's decision, and the figures of the release."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from cbir.answers import KEY_FIGURES, find_fused
from cbir.gate_report import format_markdown, list_reasons
from cbir.registry import Release


def show_decision(document: dict[str, Any], release: Release, *, metrics: Mapping[str, Any]) -> None:
    """Tell the log and Prefect's pages what was decided, and on what figures."""
    logger = get_run_logger()
    for reason in list_reasons(document):
        logger.warning("%s: %s", document["verdict"], reason)
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    link = f"{server}/#/models/{release.name}/versions/{release.version}" if server.startswith("http") else None
    create_markdown_artifact(
        key="gate", markdown=format_markdown(document, link=link), description=f"release {release.version}"
    )
    create_table_artifact(
        key="metrics",
        table=list_rows(metrics),
        description=f"release {release.version}, in percent; `cbir-ops report` shows every system, curves and queries",
    )


def list_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fused system's figures, a row a query set."""
    rows = []
    for query_set, systems in metrics.items():
        fused = find_fused(systems)
        if fused is not None:
            figures = {name: f"{100 * systems[fused][name]:.1f}" for name in KEY_FIGURES if name in systems[fused]}
            rows.append({"query set": query_set, "system": fused, "queries": systems[fused]["queries"], **figures})
    return rows
