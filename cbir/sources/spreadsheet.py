"""How a CSV becomes rows, each with the number that a spreadsheet shows, and what kind of values a column has."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Container, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cbir.errors import SourceError, hint_at
from cbir.sources.documents import parse_json
from cbir.sources.log import ImportLog

WHOLE = re.compile(r"0|-?[1-9][0-9]{0,99}")
NUMBER = re.compile(
    r"-?(?:(?:0|[1-9][0-9]{0,99})(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?|[+-]?inf(?:inity)?", re.IGNORECASE
)
TRUTH = {"true": True, "false": False}
QUOTE = "put a text with commas or line breaks in double quotes, and double a quote within it"
PICTURE = "file_name"  # the column of paths
MARKS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # that stand where commas should
LIST = """so each is one text; write ["a zebu", "a cow"], with double quotes"""
Row = dict[str, Any]


def read_csv(path: Path, *, texts: Container[str], lists: Container[str], log: ImportLog) -> list[tuple[int, Row]]:
    """Rows by column, each with its number; a blank cell is None, a row of blank cells is none.

    A column is numbers, or true and false, where every cell that is not blank is one; else, and where its name is in
    ``texts``, it is text as written. 007 is no number: what a zero leads is an id, and would not come back as written.
    A text of ``lists``, which are among them, may be a JSON list; ``log`` names what begins as one and is none, as
    Python's own ['a', 'b'].

    Raises:
        SourceError: it is empty, has no column of paths or one twice, a quote that is not closed, or a row with more
            cells than columns.
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    table = _read_cells(path)
    if not table:
        raise SourceError(f"{path} is empty; name the columns in its first row, file_name among them.")
    names = _name_columns(table[0][1], path=path)
    if PICTURE not in names:
        otherwise = f"call the one of the pictures' paths {PICTURE}."
        raise SourceError(f"{path}, row {table[0][0]}: {explain_lack(names, otherwise=otherwise)}")
    rows = [(number, _fit(cells, len(names), number=number, path=path)) for number, cells in table[1:]]
    columns = [
        _read_texts(cells) if name in texts else _read_values(cells)
        for name, cells in zip(names, _transpose([cells for _, cells in rows], len(names)), strict=True)
    ]
    for place, name in enumerate(names):
        if name in lists:
            columns[place] = _read_lists(columns[place], name=name, path=path, log=log)
    return [
        (number, dict(zip(names, values, strict=True)))
        for (number, _), values in zip(rows, _transpose(columns, len(rows)), strict=True)
    ]


def explain_lack(names: Sequence[str], *, otherwise: str) -> str:
    """Why no column of ``names`` is that of the paths, and what to do: the mark between them, the nearest name."""
    found = ", ".join(names)
    mark = next((word for mark, word in MARKS.items() if mark in found), None)
    hint = f"write commas between columns, not {mark}." if mark else hint_at(PICTURE, names, otherwise=otherwise)
    rename = "" if mark or hint == otherwise else f" Call it {PICTURE}."
    return f"no {PICTURE}{f', but {found}' if found else ''}; {hint}{rename}"


def _read_cells(path: Path) -> list[tuple[int, list[str]]]:
    """Cells of every row that is not blank."""
    rows: list[list[str]] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            rows.extend(csv.reader(file, strict=True))
        except csv.Error as error:
            raise SourceError(f"{path}, row {len(rows) + 1}: {error}; {QUOTE}.") from None
    return [(number, cells) for number, cells in enumerate(rows, 1) if any(map(str.strip, cells))]


def _name_columns(header: list[str], *, path: Path) -> list[str]:
    """Names as written, or as pandas calls a column without one: it writes its index so."""
    names = [name.strip() or f"Unnamed: {n}" for n, name in enumerate(header)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SourceError(f"{path} has the column {twice[0]!r} twice; name each once.")
    return names


def _fit(cells: list[str], width: int, *, number: int, path: Path) -> list[str]:
    """As many cells as there are columns; blank ones may lack at the end, or be too many."""
    if any(map(str.strip, cells[width:])):
        raise SourceError(f"{path}, row {number}: {len(cells)} cells for {width} columns; {QUOTE}.")
    return [*cells[:width], *[""] * (width - len(cells))]


def _transpose(lines: Sequence[Sequence[Any]], width: int) -> list[tuple[Any, ...]]:
    return list(zip(*lines, strict=True)) if lines else [()] * width


def _read_texts(cells: Sequence[str]) -> list[Any]:
    return [cell if cell.strip() else None for cell in cells]


def _read_lists(texts: Sequence[str | None], *, name: str, path: Path, log: ImportLog) -> list[Any]:
    values = [_read_list(text) for text in texts]
    faults = sum(isinstance(value, str) and value.startswith("[") for value in values)
    if faults:
        log.remarks.append(f"{path.name}: {name} of {faults} rows begin with [ and are no JSON list, {LIST}")
    return values


def _read_list(text: str | None) -> Any:
    if text is not None and text.startswith("["):
        with suppress(ValueError):
            return parse_json(text)
    return text


def _read_values(cells: Sequence[str]) -> list[Any]:
    values = [cell.strip() for cell in cells]
    filled = [value for value in values if value]
    if all(value.lower() in TRUTH for value in filled):
        return [TRUTH.get(value.lower()) for value in values]
    if all(NUMBER.fullmatch(value) for value in filled):
        return [_read_number(value) if value else None for value in values]
    return _read_texts(cells)


def _read_number(value: str) -> int | float:
    """Whole numbers keep all their digits, whatever others the column has."""
    return int(value) if WHOLE.fullmatch(value) else float(value)
