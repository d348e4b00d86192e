"""How the figures of ``metrics.json`` are named in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten_metrics(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested metrics as dotted names, e.g. ``label.fused_both.map``."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= flatten_metrics(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = float(value)
    return flat


def name_metric(name: str) -> str:
    """MLflow allows no ``@`` in a metric's name."""
    return name.replace("@", "_at_")


def read_metric_name(name: str) -> str:
    """The name in ``metrics.json`` of MLflow's ``name``."""
    return name.replace("_at_", "@")
