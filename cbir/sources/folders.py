"""How a folder of pictures with captions becomes items.

Three layouts, found by what lies in the folder: ``metadata.jsonl``, ``.csv`` or ``.parquet`` (the Hugging Face
ImageFolder convention), side-car captions (``name.png`` + ``name.txt``), and plain class folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cbir.errors import SourceError
from cbir.records import RawItem
from cbir.sources.files import PICTURES, list_files, name_item, read_file
from cbir.sources.log import ImportLog
from cbir.sources.metadata import find_metadata, read_listed
from cbir.sources.splits import find_split_folders


def read_items(folder: Path, *, log: ImportLog) -> Iterator[tuple[RawItem, bytes]]:
    """Items and file bytes of ``folder``; what cannot be read is named in ``log``.

    Metadata speaks for its folder and those below; elsewhere every picture is an item. Top folders that are all named
    as splits give the split, and are no part of a label.

    Raises:
        SourceError: the folder is missing, empty, or its metadata is malformed.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder; give the path of a folder of pictures, or `openmoji`.")
    files = list_files(folder, log=log)
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    metadata = find_metadata(files, log=log)
    splits = find_split_folders(path.relative_to(folder).as_posix() for path in pictures)
    seen: set[str] = set()
    for item, data in read_listed(folder, metadata, splits=splits, log=log):
        seen.add(item.id)
        yield item, data
    listed = {path.parent for path in metadata}
    loose = [path for path in pictures if listed.isdisjoint(path.parents)]
    if not seen and not loose:
        raise SourceError(_explain_nothing(folder, metadata))
    for path in loose:
        item = _build_item(path, folder=folder, splits=splits, seen=seen, log=log)
        if (found := read_file(path, name=item.file_name, told=log.skipped)) is not None:
            seen.add(item.id)
            yield item, found


def _explain_nothing(folder: Path, metadata: list[Path]) -> str:
    if metadata:
        named = metadata[0]
        return f"None of the pictures that {named} names is in {named.parent}; file_name is relative to it."
    return f"{folder} holds no pictures ({', '.join(sorted(PICTURES))})."


def _build_item(path: Path, *, folder: Path, splits: dict[str, str | None], seen: set[str], log: ImportLog) -> RawItem:
    """A picture of which only its folders and side-car speak."""
    name = path.relative_to(folder)
    caption = _read_sidecar(path.with_suffix(".txt"), log=log)
    labels = name.parts[1:-1] if name.parts[0] in splits else name.parts[:-1]
    return RawItem(
        id=name_item(name.as_posix(), seen),
        file_name=name.as_posix(),
        captions=[caption] if caption else [],
        labels=["/".join(labels)] if labels else [],
        split=splits.get(name.parts[0]),
    )


def _read_sidecar(path: Path, *, log: ImportLog) -> str | None:
    """The first line; Tux Paint keeps other languages below it."""
    if not path.exists():
        return None
    data = read_file(path, name=str(path), told=log.remarks)
    try:
        return (data or b"").decode("utf-8-sig").replace("\r", "\n").split("\n")[0].strip() or None
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8; convert it, e.g. `iconv -f latin1 -t utf-8`.") from None
