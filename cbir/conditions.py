"""What is wrong with a condition on an index's columns, in a sentence without the inner paths of LanceDB."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cbir.errors import QueryError, hint_at
from cbir.rows import HIDDEN

CONDITION_FAULTS = ("Execution error", "Not supported")  # in what LanceDB says of a condition that it read
_PLACE = re.compile(r",? \S+\.rs:\d+(:\d+)?| at Line: \d+, Column: \d+")  # in LanceDB's source code; in a condition
_LAYER = re.compile(r"^(Invalid (user )?input[,:]|lance error:|(Query )?Execution error:|Schema error:|Error [^:]+:) +")
_PARSER = re.compile(r".*\(sql parser error: (.*)\)$")
_UNKNOWN = re.compile(r"No field named [`\"]?(.+?)[`\"]?\. |Column (\S+) does not exist")
_OF_MANY = re.compile(r"AggregateUDF|WindowFunction|WindowUDF")
_TEXT, _NAME = re.compile(r"'[^']*'"), re.compile('`[^`]*`|"[^"]*"')


def enclose_condition(where: str) -> str:
    """The condition in brackets: LanceDB would drop without a word what follows the first whole expression.

    Raises:
        QueryError: it has a semicolon, or closes a bracket that it has not opened, outside of texts and names.
    """
    bare, depth = _NAME.sub("", _TEXT.sub("", where)), 0
    if ";" in bare:
        raise QueryError(f"--where {where!r}: one condition, without a semicolon; join two with AND or OR.")
    for sign in bare:
        depth += (sign == "(") - (sign == ")")
        if depth < 0:
            raise QueryError(f"--where {where!r}: a bracket is closed that was not opened.")
    return f"({where})"


def explain_condition(where: str, error: Exception, names: Sequence[str]) -> str:
    """Why ``where`` does not work on a table with the columns ``names``, and what to write."""
    known = [name for name in names if name not in HIDDEN]
    listed = f"Columns: {', '.join(known)}."
    unknown = _UNKNOWN.search(str(error))
    if unknown:
        name = unknown[1] or unknown[2]
        hint = hint_at(
            name,
            known,
            otherwise=f"if it is meant as text, write '{name}'. An attribute of several types, or that "
            "came with a refresh, has no column.",
        )
        return f"--where {where!r}: there is no column {name}; {hint} {listed}"
    for name in HIDDEN:
        if re.search(rf"\b{name}\b", _TEXT.sub("", where)):
            return f"--where {where!r}: {name} cannot be searched by. {listed}"
    if _OF_MANY.search(str(error)):
        return f"--where {where!r}: a condition is asked of one item at a time; count(...) and the like are of many."
    return f"--where {where!r} does not work: {quote_lance(error)}. {listed}"


def quote_lance(error: Exception) -> str:
    """Its own sentence, without the layers that handed it on and the place in its source code."""
    said = _PLACE.sub("", (str(error).splitlines() or [""])[0])
    while (shorter := _LAYER.sub("", said)) != said:
        said = shorter
    return _PARSER.sub(r"\1", said).rstrip(". ")
