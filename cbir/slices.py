"""How well the encoder answers the queries of one kind of item: of a label, of a size, with and without captions.

Shapes: Q queries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cbir.answers import Answers, find_fused, find_intervals, select_queries
from cbir.errors import ParamsError

COLUMNS = ["id", "source", "captions", "labels", "attributes", "width", "height"]
BUILT_IN = ("label", "source", "has_caption", "size")
THIRDS = ("smallest third", "middle third", "largest third")
MOST_VALUES = 12  # of a column of numbers; one that has more is cut into thirds
MOST_NAMED = 50  # slices with too few queries that are named; more are counted
ABSENT = "none"
ALIKE = "all alike"
Slices = dict[str, Any]


def slice_items(items: pa.Table, name: str) -> list[list[str]]:
    """The slices of each item: by ``label`` (its top level), ``source``, ``has_caption``, ``size`` or an attribute.

    Sizes, and numbers of many values, are cut into thirds of the items; an item without the attribute is in ``none``.

    Raises:
        ParamsError: no item has the attribute.
    """
    match name:
        case "label":
            return [sorted({label.split("/")[0] for label in row}) or [ABSENT] for row in items["labels"].to_pylist()]
        case "source":
            return [[source] for source in items["source"].to_pylist()]
        case "has_caption":
            return [["yes" if row else "no"] for row in items["captions"].to_pylist()]
        case "size":
            sides = zip(items["width"].to_pylist(), items["height"].to_pylist(), strict=True)
            return [[value] for value in _cut_in_thirds([float(width * height) for width, height in sides])]
    rows = [json.loads(text) for text in items["attributes"].to_pylist()]
    return _slice_by_attribute(rows, name, known=list_names(items))


def list_names(items: pa.Table) -> list[str]:
    """What ``items`` can be sliced by."""
    attributes = {key for text in items["attributes"].to_pylist() for key in json.loads(text)}
    return [*BUILT_IN, *sorted(attributes)]


def _slice_by_attribute(rows: Sequence[dict[str, Any]], name: str, *, known: Sequence[str]) -> list[list[str]]:
    if not any(name in row for row in rows):
        raise ParamsError(f"evaluate.slices names {name!r}, which no item has; use {', '.join(known)}.")
    values = [row.get(name) for row in rows]
    there = [value for value in values if value is not None]
    if all(type(value) in (int, float) for value in there) and len(set(there)) > MOST_VALUES:
        thirds = iter(_cut_in_thirds([float(value) for value in there]))
        return [[ABSENT if value is None else next(thirds)] for value in values]
    return [_as_values(value) for value in values]


def _as_values(value: Any) -> list[str]:
    if isinstance(value, list):
        return sorted({str(part) for part in value}) or [ABSENT]
    return [ABSENT if value is None else str(value)]


def _cut_in_thirds(values: Sequence[float]) -> list[str]:
    """The third of each value; equal values are in one, so that the thirds may be of unequal size."""
    if len(set(values)) == 1:
        return [ALIKE] * len(values)
    bounds = np.quantile(values, (1 / 3, 2 / 3)) if values else np.zeros(2)
    return [THIRDS[n] for n in np.searchsorted(bounds, values, side="left")]


def measure_slices(
    answered: Iterable[Answers], items: pa.Table, *, names: Sequence[str], least_queries: int, seed: int
) -> Slices:
    """Figures of the fused system by slice name, query set and slice, with intervals.

    A slice of fewer than ``least_queries`` queries is counted and not scored. Queries that no item asks are left out.

    Raises:
        ParamsError: no item has an attribute that is named.
    """
    ids = items["id"].to_pylist()
    by_set: dict[str, dict[str, Answers]] = {}
    for answers in answered:
        by_set.setdefault(answers.query_set, {})[answers.system] = answers
    slices: Slices = {}
    for name in names:
        of_item = dict(zip(ids, slice_items(items, name), strict=True))
        slices[name] = {}
        for query_set, systems in by_set.items():
            fused = find_fused(systems)
            if fused is not None and all(id_ in of_item for id_ in systems[fused].ids):
                parts = [of_item[id_] for id_ in systems[fused].ids]
                slices[name][query_set] = _measure(systems[fused], parts, least_queries=least_queries, seed=seed)
    return slices


def _measure(answers: Answers, parts: Sequence[Sequence[str]], *, least_queries: int, seed: int) -> Slices:
    rows: dict[str, list[int]] = {}
    for row, names in enumerate(parts):
        for name in names:
            rows.setdefault(name, []).append(row)
    scored, few = {}, {}
    for name, of_slice in sorted(rows.items()):
        if len(of_slice) < least_queries:
            few[name] = len(of_slice)
        else:
            scored[name] = _summarise(select_queries(answers, np.array(of_slice)), part=name, seed=seed)
    named = dict(sorted(few.items(), key=lambda pair: -pair[1])[:MOST_NAMED])
    return {"system": answers.system, "scored": scored, "too_few": named, "too_few_slices": len(few)}


def _summarise(answers: Answers, *, part: str, seed: int) -> Slices:
    names = ["map", *(name for name in answers.figures if name.startswith("hit@"))]
    means = {name: float(answers.figures[name].mean()) for name in names}
    return {"queries": len(answers.ids), **means, "interval": find_intervals(answers, names, seed=seed, part=part)}
