"""How metadata of the Hugging Face ImageFolder convention is found and becomes items."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cbir.errors import SourceError
from cbir.records import RawItem
from cbir.sources.documents import parse_json
from cbir.sources.files import name_item, read_file
from cbir.sources.log import ImportLog
from cbir.sources.splits import NAMES, name_split
from cbir.sources.spreadsheet import PICTURE, explain_lack, read_csv

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CAPTIONS = ("caption", "captions", "text")
LABELS = ("label", "labels")
TEXT_COLUMNS = ("id", PICTURE, "group", "split", *CAPTIONS, *LABELS)
LIST_COLUMNS = ("captions", "labels")  # of a CSV, where a cell is text
SEVERAL = """give it one row with all captions, as ["a zebu", "a cow"] in a column captions, or each row an id"""
Row = dict[str, Any]


def find_metadata(files: list[Path], *, log: ImportLog) -> list[Path]:
    """One a folder; it speaks for all that is below, so that one further below is named in ``log``."""
    found: dict[Path, Path] = {}
    for name in METADATA:
        for path in files:
            if path.name == name:
                found.setdefault(path.parent, path)
    hidden = [folder for folder in found if any(above in found for above in folder.parents)]
    log.remarks.extend(f"{found.pop(folder)}: not read, for a folder above it has metadata" for folder in hidden)
    return sorted(found.values())


def read_listed(
    folder: Path, metadata: list[Path], *, splits: dict[str, str | None], log: ImportLog
) -> Iterator[tuple[RawItem, bytes]]:
    """Items and file bytes; ``file_name`` is relative to the folder of its metadata.

    Raises:
        SourceError: a file is malformed, or an id is there twice, or a picture without one.
    """
    seen: set[str] = set()
    files: set[str] = set()
    unknown: Counter[str] = Counter()
    for path in metadata:
        for place, row in _read_rows(path, log=log):
            name = _read_name(row, path, place=place, folder=folder)
            if not os.path.isfile(folder / name):
                log.skipped.append(f"{name}: named in {path.name}, but not in the folder")
                continue
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise SourceError(f"{path} names {name!r}, outside {folder}; move the picture below the folder.")
            if name in files and row.get("id") is None:
                raise SourceError(f"{path}, {place}: names {name!r} twice; {SEVERAL}.")
            files.add(name)
            item = _build_item(name, row, splits=splits, seen=seen)
            unknown.update([repr(item.attributes["split"])] if "split" in item.attributes else [])
            if item.id in seen:
                raise SourceError(f"{path} names the id {item.id!r} twice; make ids unique, or leave the column out.")
            seen.add(item.id)
            if (data := read_file(folder / name, name=name, told=log.skipped)) is not None:
                yield item, data
    for value, rows in unknown.items():
        known = ", ".join(NAMES)
        log.remarks.append(f"split {value} of {rows} rows: kept as an attribute, for no split is named so; use {known}")


def _read_name(row: Row, path: Path, *, place: str, folder: Path) -> str:
    """Take the picture's path out of the row, relative to ``folder``."""
    name = row.pop(PICTURE, None)
    if not isinstance(name, str):
        otherwise = f"give it, as a path below {path.parent}."
        raise SourceError(f"{path}, {place}: {explain_lack(list(row), otherwise=otherwise)}")
    above = path.parent.relative_to(folder).as_posix()
    return name if above == "." else f"{above}/{name}"


def _read_rows(path: Path, *, log: ImportLog) -> list[tuple[str, Row]]:
    """Rows, each with the place where an editor or a spreadsheet shows it."""
    try:
        if path.suffix == ".jsonl":  # not by splitlines(), which cuts inside of texts
            lines = enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1)
            return [(f"line {n}", _parse(line, n, path=path)) for n, line in lines if line.strip()]
        if path.suffix == ".csv":
            rows = read_csv(path, texts=TEXT_COLUMNS, lists=LIST_COLUMNS, log=log)
        else:
            rows = _read_parquet(path)
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8; convert it, e.g. `iconv -f latin1 -t utf-8`.") from None
    except (ValueError, OSError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from None
    return [(f"row {n}", row) for n, row in rows]


def _read_parquet(path: Path) -> list[tuple[int, Row]]:
    frame = pd.read_parquet(path)
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [(n, {str(key): value for key, value in record.items()}) for n, record in enumerate(records, 1)]


def _parse(line: str, number: int, *, path: Path) -> Row:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise SourceError(f"{path}, line {number}: no JSON ({error}); mend it.") from None
    if not isinstance(row, dict):
        raise SourceError(f"{path}, line {number}: no JSON object: {line!r:.60}.")
    return row


def _build_item(name: str, row: Row, *, splits: dict[str, str | None], seen: Container[str]) -> RawItem:
    """A split that the row names goes before that of its folder; one that is unknown stays an attribute."""
    row = {str(key): value for key, value in row.items() if value is not None}
    captions = [text for key in CAPTIONS for text in _as_list(row.pop(key, None))]
    labels = [label for key in LABELS for label in _as_list(row.pop(key, None))]
    split = name_split(row.get("split"))
    if split or row.get("split") == "":
        row.pop("split")
    return RawItem(
        id=str(row.pop("id")) if "id" in row else name_item(name, seen),
        file_name=name,
        captions=captions,
        labels=labels,
        group=str(row.pop("group")) if "group" in row else None,
        split=split or splits.get(name.split("/")[0]),
        attributes=row,
    )


def _as_list(value: Any) -> list[str]:
    parts = value if isinstance(value, list | tuple | np.ndarray) else [value]
    return [str(part) for part in parts if part is not None]
