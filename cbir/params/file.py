"""How ``params.yaml`` is read, and what is said of what is wrong in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter
from pydantic import ValidationError as PydanticError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from cbir.errors import ParamsError, hint_at
from cbir.params import SECTIONS

S = TypeVar("S")


def load_section(path: Path, name: str, section: type[S]) -> S:
    """Read section ``name`` of the params file as ``section``.

    Raises:
        ParamsError: the file is missing, a key or value is not one of ``section``'s, or a section's name is misspelt.
    """
    document = read_document(path)
    for other in document:  # a workspace may have sections of its own, but hardly one that is called almost like ours
        hint = hint_at(str(other), SECTIONS, otherwise="", cutoff=0.8)
        if hint and other not in SECTIONS:
            raise ParamsError(f"params.yaml: {other}: unknown section; {hint}")
    values = document.get(name)
    try:
        return TypeAdapter(section).validate_python({} if values is None else values)
    except PydanticError as error:
        raise ParamsError(_explain(error, name, section)) from None


def read_document(path: Path) -> dict[str, Any]:
    """Every section as it is written, unchecked.

    Raises:
        ParamsError: the file is missing, or no mapping in YAML.
    """
    if not path.exists():
        raise ParamsError(f"{path} is not there; run inside the folder that holds dvc.yaml.")
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ParamsError(
            f"{path}{where}: {error.problem}; indent with spaces, close every bracket, write a key once."
        ) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is no text in UTF-8: {error}; save it as such.") from None
    if not isinstance(document, dict | None):
        raise ParamsError(f"{path} must be a mapping of sections to their keys, e.g. `split: {{test: 0.2}}`.")
    return document or {}


def _explain(error: PydanticError, name: str, section: type) -> str:
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"] if part != "[key]"]
        key = ".".join(path)
        unknown = problem["type"] in ("unexpected_keyword_argument", "extra_forbidden")
        said = f"unknown key; {hint_at(path[-1], _list_keys(section, path[:-1]))}" if unknown else _say(problem)
        lines.append(f"{name}.{key}: {said}" if key else f"{name}: {said}")
    return "params.yaml: " + "; ".join(lines)


def _list_keys(type_: Any, path: Sequence[str]) -> list[str]:
    """The keys that there are at ``path`` below ``type_``, through sections and mappings of them."""
    for part in path:
        type_ = get_type_hints(type_)[part] if is_dataclass(type_) else get_args(type_)[-1]
    return [field.name for field in fields(type_)]


def _say(problem: ErrorDetails) -> str:
    """What pydantic says; of a value that is one of a few names, also the one that was meant."""
    match problem["type"]:
        case "dataclass_type":
            return "must be a mapping of keys to values"
        case "too_short":
            return f"give at least {problem['ctx']['min_length']}"
        case "value_error":
            return str(problem["ctx"]["error"])
        case "literal_error":
            names = re.findall("'([^']+)'", problem["ctx"]["expected"])
            hint = hint_at(str(problem["input"]), names, otherwise="")
            return f"{problem['msg']}; {hint}" if hint else problem["msg"]
    return problem["msg"]
