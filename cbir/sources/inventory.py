"""What lies in the raw folder, source by source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cbir.errors import SourceError
from cbir.raw_lists import T, read_list
from cbir.records import RAW_ITEMS, RAW_RELATIVE, RawItem, RelativeCaption


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


def _describe(folder: Path) -> Holding:
    rows = list(_read_rows(folder / RAW_ITEMS, RawItem))
    files = {row.file_name for row in rows}
    sizes = {name: (folder / name).stat().st_size for name in files if (folder / name).is_file()}
    return Holding(
        name=folder.name,
        items=len(rows),
        captioned=sum(bool(row.captions) for row in rows),
        labelled=sum(bool(row.labels) for row in rows),
        labels=len({label for row in rows for label in row.labels}),
        relative=sum(1 for _ in _read_rows(folder / RAW_RELATIVE, RelativeCaption)),
        missing=sum(row.file_name not in sizes for row in rows),
        bytes=sum(sizes.values()),
    )


def _read_rows(path: Path, kind: type[T]) -> Iterator[T]:
    for number, _, row in read_list(path, kind) if path.exists() else ():
        if isinstance(row, str):
            raise SourceError(
                f"{path.parent.name}/{path.name}, line {number}: {row}; mend or delete the line, or import the source "
                "again."
            )
        yield row
