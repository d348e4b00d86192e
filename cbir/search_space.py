"""Which parameters a search varies, and whether each may have the values that it would be given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from cbir.errors import ParamsError, hint_at
from cbir.params import FineTuneParams, SearchRange, TowerParams, TrainParams, TuneParams
from cbir.params.file import load_section

SECTIONS: Mapping[str, type] = {"towers": TowerParams, "finetune": FineTuneParams, "train": TrainParams}  # of `train`
Space = Mapping[str, SearchRange]


def check_space(params: TuneParams) -> None:
    """Make sure that every value the search can come to is one that training takes.

    Raises:
        ParamsError: nothing to search, a parameter that the train stage does not have, or a range that is none.
    """
    if not params.search:
        raise ParamsError("params.yaml: tune.search names nothing to search; give e.g. `train.dropout: {low, high}`.")
    known = list_types()
    for name, range_ in params.search.items():
        if name not in known:
            raise ParamsError(f"params.yaml: tune.search.{name}: no parameter of training; {hint_at(name, known)}")
        fault = _find_fault(name, range_)
        if fault:
            raise ParamsError(f"params.yaml: tune.search.{name}: {fault}")


def list_types() -> dict[str, Any]:
    """Type of every parameter of training, by ``section.key``, or ``section.key.name`` of each value of a mapping."""
    found: dict[str, Any] = {}
    for section, type_ in SECTIONS.items():
        for key, hint in get_type_hints(type_).items():
            if get_origin(hint) is dict:
                names, value = get_args(hint)
                found |= {f"{section}.{key}.{name}": value for name in get_args(names)}
            else:
                found[f"{section}.{key}"] = hint
    return found


def is_whole(name: str) -> bool:
    """Whether a parameter is a count."""
    return list_types()[name] is int


def is_share(name: str) -> bool:
    """Whether a parameter is a value of a mapping, which need not be there."""
    return name.count(".") > 1


def read_present(path: Path) -> dict[str, Any]:
    """Every parameter of training as it is now, by its name; 0 where a mapping lacks it.

    Raises:
        ParamsError: one is wrong.
    """
    loaded: dict[str, Any] = {section: load_section(path, section, type_) for section, type_ in SECTIONS.items()}
    present: dict[str, Any] = {}
    for name in list_types():
        section, key, *share = name.split(".")
        value = getattr(loaded[section], key)
        present[name] = value.get(share[0], 0.0) if share else value
    return present


def contains(range_: SearchRange, value: Any) -> bool:
    """Whether a search could come to ``value``."""
    if range_.choices is not None:
        return value in range_.choices
    return range_.low is not None and range_.high is not None and range_.low <= value <= range_.high


def _find_fault(name: str, range_: SearchRange) -> str | None:
    if range_.choices is not None:
        if range_.low is not None or range_.high is not None or range_.log:
            return "give either choices, or low and high."
        if len(set(range_.choices)) < 2:
            return "give at least two choices."
        return _refuse_values(name, range_.choices)
    if range_.low is None or range_.high is None:
        return "give low and high, or choices."
    if range_.low >= range_.high:
        return f"low {range_.low:g} is not below high {range_.high:g}; swap them."
    if range_.log and range_.low <= 0:
        return f"low {range_.low:g} has no logarithm; raise it, or set log to false."
    if list_types()[name] not in (int, float):
        return "it is no number that ranges; give choices."
    return _refuse_values(name, (range_.low, range_.high))


def _refuse_values(name: str, values: tuple[Any, ...]) -> str | None:
    section, key, *share = name.split(".")
    for value in values:
        try:
            TypeAdapter(SECTIONS[section]).validate_python({key: {share[0]: value} if share else value})
        except ValidationError as error:
            return f"{value}: {error.errors()[0]['msg']}."
    return None
