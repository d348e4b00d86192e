"""What is looked at before a run does anything: that params.yaml and the golden queries hold what they may."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task

from cbir.errors import ParamsError, ValidationError, hint_at
from cbir.gate.names import check_names
from cbir.golden import QRELS, QUERIES, read_golden
from cbir.ingest import iterate_raw
from cbir.params import SECTIONS
from cbir.params.file import load_section
from cbir.records import RAW_ITEMS
from cbir.search_space import check_space
from cbir.slices import BUILT_IN
from cbir.towers.names import check_towers
from flows.schedule import load_schedule


@task(name="check the parameters", task_run_name="check the parameters")
def check_params(workspace: str) -> None:
    """Load every section: one that is wrong would else be noticed after the training, or, with nothing to do, never.

    Raises:
        GoldenError: the golden queries are malformed, or name what no raw item is.
        ImageError: a golden query's picture cannot be used.
        ParamsError: the file is missing, or a key or value is not one, or does not fit another.
        TowerError: there is no such tower, or what its weights are read from is not there.
        ValidationError: the suite of expectations is not there.
    """
    root = Path(workspace)
    loaded: dict[str, Any] = {
        name: load_section(root / "params.yaml", name, section) for name, section in SECTIONS.items()
    }
    load_schedule(root / "params.yaml")
    if loaded["tune"].search:
        check_space(loaded["tune"])
    check_towers(loaded["towers"], workspace=root)
    check_names(loaded["gate"], ks=loaded["evaluate"].k)
    _check_slices(loaded["evaluate"].slices, raw=root / "data/raw")
    _check_golden(root / "golden", raw=root / "data/raw")
    wanted, there = loaded["embed"].dimensions, loaded["train"].dimensions
    if wanted is not None and wanted > there:
        raise ParamsError(
            f"params.yaml: embed.dimensions: {wanted}, and train.dimensions is {there}; take no more, or null."
        )
    suite = root / "expectations" / f"{loaded['validate'].suite}.json"
    if not suite.exists():
        raise ValidationError(f"{suite} is not there; validate.suite names a file under {suite.parent}/.")


def _check_slices(names: Sequence[str], *, raw: Path) -> None:
    """Refuse a slice that no raw item has, where there are raw items."""
    asked = [name for name in names if name not in BUILT_IN]
    if not asked or not any(raw.glob(f"*/{RAW_ITEMS}")):
        return
    known = {*BUILT_IN, *(key for _, row in iterate_raw(raw) for key in row["attributes"])}
    for name in asked:
        if name not in known:
            raise ParamsError(
                f"params.yaml: evaluate.slices: no item has the attribute {name}; {hint_at(name, sorted(known))}"
            )


def _check_golden(golden: Path, *, raw: Path) -> None:
    """Read what the evaluation will read; only an item that goes to quarantine is noticed there alone."""
    given = [golden / name for name in (QUERIES, QRELS) if (golden / name).exists()]
    if any(path.stat().st_size for path in given) and any(raw.glob(f"*/{RAW_ITEMS}")):
        read_golden(golden, [row["id"] for _, row in iterate_raw(raw)])
