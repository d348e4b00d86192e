"""docs/params.md and the code name the same parameters, of the same types, defaults and ranges."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml
from pydantic.fields import FieldInfo
from test_params import SECTIONS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/params.md"
PLAIN = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text", types.NoneType: "`null`"}
IN_ORDER = list(yaml.safe_load((ROOT / "params.yaml").read_text()))
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def name_type(type_: Any) -> str:
    """What a person writes for a value of the type."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return name_type(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(map(name_type, arguments))
    if origin is tuple:
        return f"list of: {name_type(arguments[0])}"
    if origin is dict:
        return f"mapping of {name_type(arguments[0])} to {name_type(arguments[1])}"
    return "range" if is_dataclass(type_) else PLAIN[type_]


def name_range(type_: Any, metadata: list[Any]) -> str:
    """Bounds of a value, or of every value of a mapping."""
    if get_origin(type_) is dict:
        return name_range(*split_bounds(get_args(type_)[1]))
    return ", ".join(
        f"{sign} {getattr(m, name)}" for m in metadata for name, sign in BOUNDS.items() if hasattr(m, name)
    )


def split_bounds(type_: Any) -> tuple[Any, list[Any]]:
    if get_origin(type_) is not Annotated:
        return type_, []
    inner, *rest = get_args(type_)
    return inner, [m for one in rest for m in (one.metadata if isinstance(one, FieldInfo) else [one])]


def name_default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    plain = list(default) if isinstance(default, tuple) else default
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def list_rows(section: type[Any]) -> list[list[str]]:
    """Key, type, default and range of each parameter of a section, as the page's cells."""
    hints = get_type_hints(section, include_extras=True)
    known = section.__pydantic_fields__
    return [
        [
            f"`{field.name}`",
            name_type(hints[field.name]),
            f"`{name_default(known[field.name])}`",
            name_range(hints[field.name], known[field.name].metadata),
        ]
        for field in fields(section)
    ]


def read_rows(section: str) -> list[list[str]]:
    """The rows of the page's table of a section."""
    part = PAGE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_the_page_has_every_parameter_as_it_is_in_the_code_and_no_other(name: str) -> None:
    rows = read_rows(name)
    assert [row[:4] for row in rows] == list_rows(SECTIONS[name])
    assert all(len(row) == 5 and row[4] for row in rows), "each says what it does"


def test_the_page_has_every_section_and_says_which_stage_it_is_of() -> None:
    text = PAGE.read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == IN_ORDER
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in SECTIONS:
        own = [stage for stage, entry in stages.items() if name in entry.get("params", [])]
        said = text.split(f"\n## {name}\n")[1].splitlines()[1]
        assert said.startswith(f"Runs again: `{own[0]}`" if own else "Runs again: no stage"), name
