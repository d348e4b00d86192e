"""What lies in the raw folder, source by source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbir.errors import SourceError
from cbir.records import RAW_ITEMS, RAW_RELATIVE


@dataclass(frozen=True, kw_only=True)
class Holding:
    """One source: its items, those that say or show something, its relative captions, and what its files take."""

    name: str
    items: int
    captioned: int
    labelled: int
    labels: int
    relative: int
    missing: int
    bytes: int


def list_sources(raw: Path) -> list[Holding]:
    """Every source of ``raw``, by name; ``missing`` counts the items whose picture is not there.

    Raises:
        SourceError: a list is malformed; says where.
    """
    return [_describe(path.parent) for path in sorted(raw.glob(f"*/{RAW_ITEMS}"))]


def read_rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line of a list of items or relative captions that is not blank, as it is written and as it is read.

    Raises:
        SourceError: a line is no JSON object.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise SourceError(
                    f"{path.parent.name}/{path.name}, line {number} is no JSON object; mend or delete the line, or "
                    "import the source again."
                )
            yield line, row


def _describe(folder: Path) -> Holding:
    rows = [row for _, row in read_rows(folder / RAW_ITEMS)]
    files = {str(row.get("file_name")) for row in rows}
    sizes = {name: (folder / name).stat().st_size for name in files if (folder / name).is_file()}
    return Holding(
        name=folder.name,
        items=len(rows),
        captioned=sum(bool(row.get("captions")) for row in rows),
        labelled=sum(bool(row.get("labels")) for row in rows),
        labels=len({label for row in rows for label in row.get("labels") or []}),
        relative=sum(1 for _ in read_rows(folder / RAW_RELATIVE)),
        missing=sum(row.get("file_name") not in sizes for row in rows),
        bytes=sum(sizes.values()),
    )
