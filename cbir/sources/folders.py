"""How a folder of pictures with captions becomes items.

Three layouts, found by what lies in the folder: ``metadata.jsonl``, ``.csv`` or ``.parquet`` (the Hugging Face
ImageFolder convention), side-car captions (``name.png`` + ``name.txt``), and plain class folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from cbir.errors import SourceError
from cbir.records import SPLITS, RawItem

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CAPTIONS = ("caption", "captions", "text")
LABELS = ("label", "labels")
TEXT_COLUMNS = ("id", "file_name", "group", "split", *CAPTIONS, *LABELS)


def read_items(folder: Path, *, skipped: list[str]) -> Iterator[tuple[RawItem, bytes]]:
    """Items and file bytes of ``folder``; a row without its picture is named in ``skipped``.

    Raises:
        SourceError: the folder is missing, empty, or its metadata is malformed.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder; give the path of a folder of pictures, or `openmoji`.")
    metadata = next((folder / name for name in METADATA if (folder / name).exists()), None)
    if metadata is not None:
        yield from _read_listed(folder, metadata, skipped=skipped)
    else:
        yield from _read_pictures(folder)


def _read_listed(folder: Path, metadata: Path, *, skipped: list[str]) -> Iterator[tuple[RawItem, bytes]]:
    seen: set[str] = set()
    for row in _read_metadata(metadata):
        if not isinstance(row, dict):
            raise SourceError(f"{metadata} has a line that is no JSON object: {row!r:.60}.")
        name = row.pop("file_name", None)
        if not isinstance(name, str):
            raise SourceError(f"{metadata} has a row without file_name; add the column (a path below {folder}).")
        if not (folder / name).is_file():
            skipped.append(f"{name}: named in {metadata.name}, but not in the folder")
            continue
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise SourceError(f"{metadata} names {name!r}, outside {folder}; move the picture below the folder.")
        item = _build_item(name, row)
        if item.id in seen:
            raise SourceError(f"{metadata} names the id {item.id!r} twice; make ids unique, or leave the column out.")
        seen.add(item.id)
        yield item, (folder / name).read_bytes()
    if not seen:
        raise SourceError(f"None of the pictures that {metadata} names is in {folder}; file_name is relative to it.")


def _read_metadata(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        frame = _read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8; convert it, e.g. `iconv -f latin1 -t utf-8`.") from None
    except (ValueError, OSError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from None
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(key): value for key, value in record.items()} for record in records]


def _read_csv(path: Path) -> pd.DataFrame:
    """Ids such as 007 and captions such as "None" stay text; only an empty cell is missing."""
    return pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""])


def _build_item(name: str, row: dict[str, Any]) -> RawItem:
    row = {str(key): value for key, value in row.items() if value is not None}
    captions = [text for key in CAPTIONS for text in _as_list(row.pop(key, None))]
    labels = [label for key in LABELS for label in _as_list(row.pop(key, None))]
    split = _read_split(row.get("split"))
    if split:
        row.pop("split")
    return RawItem(
        id=str(row.pop("id", Path(name).with_suffix("").as_posix())),
        file_name=name,
        captions=captions,
        labels=labels,
        group=str(row.pop("group")) if "group" in row else None,
        split=split,
        attributes=row,
    )


def _read_split(value: Any) -> str | None:
    name = {"val": "validation", "valid": "validation"}.get(value, value) if isinstance(value, str) else None
    return name if name in SPLITS else None


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(value)] if isinstance(value, str | int | float) else [str(part) for part in value]


def _read_pictures(folder: Path) -> Iterator[tuple[RawItem, bytes]]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if not paths:
        raise SourceError(f"{folder} holds no pictures ({', '.join(sorted(PICTURES))}).")
    seen: set[str] = set()
    for path in paths:
        name = path.relative_to(folder)
        id_ = name.with_suffix("").as_posix()
        id_ = name.as_posix() if id_ in seen else id_
        seen.add(id_)
        caption = _read_sidecar(path.with_suffix(".txt"))
        label = name.parent.as_posix()
        yield (
            RawItem(
                id=id_,
                file_name=name.as_posix(),
                captions=[caption] if caption else [],
                labels=[label] if label != "." else [],
            ),
            path.read_bytes(),
        )


def _read_sidecar(path: Path) -> str | None:
    """The first line; Tux Paint keeps other languages below it."""
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8; convert it, e.g. `iconv -f latin1 -t utf-8`.") from None
    return lines[0].strip() or None if lines else None
