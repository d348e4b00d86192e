"""Which metrics the gate can be asked about, so that a name that is misspelt is told before the training."""

from __future__ import annotations

from collections.abc import Sequence

from cbir.answers import FIGURES, FIGURES_AT_K, QUERY_SETS, SYSTEMS
from cbir.errors import ParamsError, hint_at
from cbir.params import GateParams

COUNTS = ("counts.items", "counts.test_items")


def check_names(params: GateParams, *, ks: Sequence[int]) -> None:
    """Refuse names that no ``metrics.json`` with the cut-offs ``ks`` has, whatever the catalogue asks.

    Raises:
        ParamsError: there is one.
    """
    systems = [f"{task}.{system}" for task in (*QUERY_SETS, "golden") for system in SYSTEMS]
    figures = [*FIGURES, "queries", *(f"{figure}@{k}" for figure in FIGURES_AT_K for k in ks)]
    metrics = [*(f"{system}.{figure}" for system in systems for figure in figures), *COUNTS]
    asked = {
        "floor": (params.floor, metrics),
        "first_floor": (params.first_floor or {}, metrics),
        "protect": (params.protect, metrics),
        "improve": (params.improve, metrics),
        "fusion": (params.fusion, systems),
    }
    for key, (names, known) in asked.items():
        for name in names:
            if name not in known:
                hint = hint_at(name, known, otherwise="see metrics.json for what there is.")
                raise ParamsError(f"params.yaml: gate.{key}: nothing is called {name}; {hint}")
