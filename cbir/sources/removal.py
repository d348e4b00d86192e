"""How items, or a whole source, go from the raw folder: alone, and whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbir.errors import SourceError, hint_at
from cbir.raw_lists import read_list
from cbir.records import RAW_ITEMS, RAW_RELATIVE, RawItem, RelativeCaption, exchange_folder
from cbir.sources.exchange import PATIENCE, find_staging, link_or_copy, lock_imports, restore
from cbir.sources.pictures import delete_unnamed

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Removal:
    """How many items and relative captions of a source went, and how many items are left of it."""

    name: str
    items: int
    relative: int
    left: int


def remove_items(
    name: str, ids: Sequence[str] = (), *, raw: Path, dry_run: bool = False, patience: float = PATIENCE
) -> Removal:
    """Remove the items ``ids`` of the source ``name``, or without any the source; pictures that no item has go too.

    An id may be given without its source's name. Relative captions go with either of their ends. Killed or failed, it
    leaves all as it was. Waits as an import does. ``dry_run``: only says what would go.

    Raises:
        SourceError: there is no such source or item, or a line is no JSON object; nothing was removed.
    """
    raw = raw.resolve()
    folder = raw / name
    with lock_imports(raw, patience=patience):
        if not (folder / RAW_ITEMS).is_file() or folder.parent != raw:
            raise SourceError(f"There is no source {name!r} in {raw}; {_name_sources(name, raw)}")
        items = list(_read_rows(folder / RAW_ITEMS, RawItem))
        known = {str(row.get("id")) for _, row in items}
        gone = _find_items(ids, known, name=name) if ids else known
        relative = list(_read_rows(folder / RAW_RELATIVE, RelativeCaption))
        kept = [line for line, row in relative if gone.isdisjoint((row.get("reference_id"), row.get("target_id")))]
        left = [(line, row) for line, row in items if str(row.get("id")) not in gone]
        if not dry_run:
            before, after = ([str(row.get("file_name")) for _, row in rows] for rows in (items, left))
            _write(folder, [line for line, _ in left], kept, named=after, gone=before, raw=raw)
        return Removal(name=name, items=len(items) - len(left), relative=len(relative) - len(kept), left=len(left))


def _read_rows(path: Path, kind: type[RawItem | RelativeCaption]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line and its row; a malformed one as it is written, so that it can be removed."""
    for number, line, row in read_list(path, kind) if path.exists() else ():
        yield line, _load(line, number, path=path) if isinstance(row, str) else vars(row)


def _load(line: bytes, number: int, *, path: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise SourceError(
            f"{path.parent.name}/{path.name}, line {number} is no JSON object; mend or delete the line, or import the "
            "source again."
        )
    return row


def _find_items(ids: Sequence[str], known: Collection[str], *, name: str) -> set[str]:
    full = {id_ if id_ in known else f"{name}/{id_.removeprefix(f'{name}/')}" for id_ in ids}
    unknown = sorted(id_.removeprefix(f"{name}/") for id_ in full.difference(known))
    if unknown:
        short = sorted(id_.removeprefix(f"{name}/") for id_ in known)
        hint = hint_at(unknown[0], short, otherwise=f"{name}/{RAW_ITEMS} and `cbir-ops query` show ids.")
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise SourceError(f"{name} has no item {', '.join(unknown[:SHOWN])}{more}; {hint} Nothing was removed.")
    return full


def _name_sources(name: str, raw: Path) -> str:
    names = sorted(path.parent.name for path in raw.glob(f"*/{RAW_ITEMS}"))
    return hint_at(name, names, otherwise=f"there are {', '.join(names)}." if names else "nothing was imported.")


def _write(
    folder: Path, items: list[bytes], relative: list[bytes], *, named: list[str], gone: list[str], raw: Path
) -> None:
    """Write the source beside, without what goes, and let it take the place of the one that is there."""
    partial_root = find_staging(raw)
    partial, aside = partial_root / "new" / folder.name, partial_root / "gone" / folder.name
    try:
        if not items:
            aside.parent.mkdir(parents=True)
            os.replace(folder, aside)
            return
        shutil.copytree(folder, partial, copy_function=link_or_copy)
        for file, lines in ((RAW_ITEMS, items), (RAW_RELATIVE, relative)):
            if (partial / file).exists():
                (partial / file).unlink()  # a link to the old one, which must stay as it is
                (partial / file).write_bytes(b"".join(line + b"\n" for line in lines))
        delete_unnamed(partial, named=named, gone=gone)
        exchange_folder(partial, folder, aside=partial_root / "old" / folder.name)
    finally:
        restore(partial_root, raw=raw)
