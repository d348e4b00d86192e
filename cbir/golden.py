"""Golden queries: what the user's own searches should find, as JSON lines and TREC relevance judgements (qrels).

``queries.jsonl`` has one query a line: ``id``, and ``text``, ``image`` (a path beside the file) or both. ``qrels.txt``
has one judgement a line, in TREC's four columns: query, iteration (ignored), item, grade (0 is not relevant). Other
than in TREC's, an item's id may have spaces: it is all that is between the second column and the last. Both are UTF-8,
with or without the mark that some editors begin a file with.

Shapes: Q queries, N items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from cbir.errors import GoldenError, ImageError
from cbir.images import PLAIN, Canvas, load_query_image

QUERIES = "queries.jsonl"
QRELS = "qrels.txt"
MOST_GRADE = 1_000_000  # far above any scale that people judge by, far below what overflows


@dataclass(frozen=True, kw_only=True)
class _Query:
    """A line of ``queries.jsonl``."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}

    id: str
    text: str | None = None
    image: str | None = None


@dataclass(frozen=True, kw_only=True)
class GoldenQueries:
    """Queries, and the grade of every item for each, int (Q, N)."""

    ids: list[str]
    texts: list[str | None]
    files: list[str | None]  # of the pictures, as the queries name them
    images: list[Image.Image | None]
    grade_QN: np.ndarray


def read_golden(folder: Path, item_ids: Sequence[str], *, canvas: Canvas = PLAIN) -> GoldenQueries:
    """The golden queries in ``folder``, judged over ``item_ids``; none where the file is empty or not there.

    ``canvas``: of the items, which the queries' pictures are fitted into.

    Raises:
        GoldenError: a line is malformed, an id is there twice or unknown, a judgement contradicts another, or a query
            has nothing relevant.
        ImageError: a query's picture is not there or cannot be used.
    """
    rows = _read_queries(folder / QUERIES)
    ids = list(rows)
    grade_QN = _read_grades(folder / QRELS, query_ids=ids, item_ids=item_ids)
    if idle := [id_ for id_, grade_N in zip(ids, grade_QN, strict=True) if not (grade_N > 0).any()]:
        raise GoldenError(f"{folder / QRELS} judges nothing relevant for {_name(idle)}; add a line, or drop the query.")
    files = [row.image for row in rows.values()]
    images = [_load_picture(folder, row, canvas) for row in rows.values()]
    texts = [row.text for row in rows.values()]
    return GoldenQueries(ids=ids, texts=texts, files=files, images=images, grade_QN=grade_QN)


def _load_picture(folder: Path, row: _Query, canvas: Canvas) -> Image.Image | None:
    try:
        return load_query_image(folder / row.image, canvas) if row.image else None
    except ImageError as error:
        raise ImageError(f"{folder / QUERIES}: the image of the query {row.id!r}: {error}") from None


def _read_queries(path: Path) -> dict[str, _Query]:
    rows: dict[str, _Query] = {}
    adapter = TypeAdapter(_Query)
    for place, line in _read_lines(path):
        row = _parse_query(line, adapter, place=place)
        if not (row.text or row.image):
            raise GoldenError(f"{place}: {row.id} is no query; give each an id, and text, image or both.")
        if row.id.split() != [row.id]:
            raise GoldenError(f"{place} has the id {row.id!r}; {QRELS} can name only one without spaces.")
        if row.id in rows:
            raise GoldenError(f"{place} has the id {row.id!r} again; give every query its own.")
        rows[row.id] = row
    return rows


def _parse_query(line: str, adapter: TypeAdapter[_Query], *, place: str) -> _Query:
    """The query of a line; what is blank is None."""
    try:
        row = adapter.validate_json(line)
        return replace(row, text=(row.text or "").strip() or None, image=row.image or None)
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f"{part}: " for part in first["loc"])
        raise GoldenError(f"{place}: {field}{first['msg']}; mend it there.") from None


def _read_grades(path: Path, *, query_ids: Sequence[str], item_ids: Sequence[str]) -> np.ndarray:
    queries, items = _number(query_ids), _number(item_ids)
    judged: dict[tuple[str, str], int] = {}
    for place, line in _read_lines(path):
        query, item, grade = _parse_judgement(line, place=place)
        if query not in queries:
            raise GoldenError(f"{place} judges the query {query!r}, which {QUERIES} lacks; add it, or drop the line.")
        if judged.setdefault((query, item), grade) != grade:
            earlier = f"after {judged[query, item]} in an earlier line"
            raise GoldenError(f"{place} gives {item} for {query} the grade {grade}, {earlier}; keep one of them.")
    if unknown := [item for _, item in judged if item not in items]:
        raise GoldenError(f"{path} names items that the catalogue lacks: {_name(unknown)}; mend or drop those lines.")
    grade_QN = np.zeros((len(queries), len(items)), np.int64)
    for (query, item), grade in judged.items():
        grade_QN[queries[query], items[item]] = grade
    return grade_QN


def _read_lines(path: Path) -> list[tuple[str, str]]:
    """Every line that is not blank, after the place to name it by."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n") if path.exists() else []
    except UnicodeDecodeError as error:
        raise GoldenError(f"{path} is no text in UTF-8 ({error}); save it as such.") from None
    return [(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]


def _parse_judgement(line: str, *, place: str) -> tuple[str, str, int]:
    """Query, item and grade; one below 0 is 0."""
    try:
        query, _, rest = line.split(maxsplit=2)
        item, text = rest.rsplit(maxsplit=1)
        grade = max(int(text), 0)
    except ValueError:
        raise GoldenError(f"{place}: {line!r} is no judgement; write `query 0 item grade`.") from None
    if grade > MOST_GRADE:
        raise GoldenError(f"{place}: the grade {grade} is above {MOST_GRADE:,}; write a smaller one, such as 3.")
    return query, item, grade


def _number(ids: Sequence[str]) -> Mapping[str, int]:
    return {id_: n for n, id_ in enumerate(ids)}


def _name(ids: Sequence[str], *, most: int = 5) -> str:
    rest = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + rest
