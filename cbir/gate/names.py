"""Which metrics the gate can be asked about, so that a name that is misspelt is told before the training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cbir.answers import FIGURES, FIGURES_AT_K, QUERY_SETS, SYSTEMS
from cbir.errors import ParamsError, hint_at
from cbir.params import GateParams

COUNTS = ("counts.items", "counts.test_items")
LABEL, RELATIVE = ("fused_image", "fused_text", "fused_both"), ("fused_image", "fused_text", "fused_both", "fused_sum")
COMPARED = {  # the systems that the encoder itself is, which the champion's answers too
    "text_to_image": ("fused",),
    "image_to_text": ("fused",),
    "copy": ("fused",),
    "label": LABEL,
    "label_name": ("fused",),
    "duplicate": ("fused",),
    "relative": RELATIVE,
    "relative_indexed": RELATIVE,
}


def check_names(params: GateParams, *, ks: Sequence[int]) -> None:
    """Refuse names that no ``metrics.json`` with the cut-offs ``ks`` has, whatever the catalogue asks.

    Of what is compared with the champion, refuse also what only one of the two is measured on.

    Raises:
        ParamsError: there is one.
    """
    figures = [*FIGURES, *(f"{figure}@{k}" for figure in FIGURES_AT_K for k in ks)]
    systems = [f"{task}.{system}" for task in (*QUERY_SETS, "golden") for system in SYSTEMS]
    metrics = [*(f"{system}.{figure}" for system in systems for figure in (*figures, "queries")), *COUNTS]
    compared = [f"{task}.{system}.{figure}" for task in COMPARED for system in COMPARED[task] for figure in figures]
    _check_compared("protect", params.protect, metrics=metrics, compared=compared)
    _check_compared("improve", params.improve, metrics=metrics, compared=compared)
    _check_known("floor", params.floor, known=metrics)
    _check_known("first_floor", params.first_floor or {}, known=metrics)
    _check_known("fusion", params.fusion, known=systems)


def _check_compared(key: str, names: Iterable[str], *, metrics: Sequence[str], compared: Sequence[str]) -> None:
    for name in names:
        if name in metrics and name not in compared:
            remedy = (
                "golden queries are compared by gate.golden_margin; drop it here."
                if name.startswith("golden.")
                else "name a figure of the encoder, such as label.fused_both.map, or hold it to a gate.floor."
            )
            raise ParamsError(f"params.yaml: gate.{key}: {name} is not compared with the champion's; {remedy}")
    _check_known(key, names, known=compared)


def _check_known(key: str, names: Iterable[str], *, known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            hint = hint_at(name, known, otherwise="see metrics.json for what there is.")
            raise ParamsError(f"params.yaml: gate.{key}: nothing is called {name}; {hint}")
