"""How CIRR and FashionIQ, a picture and a change of it in words, become items and relative captions.

CIRR (Liu et al. 2021): ``captions/cap.rc2.SPLIT.json`` has ``reference``, ``target_hard`` and ``caption``, and
``image_splits/split.rc2.SPLIT.json`` the path of every picture by its name; both may lie in a folder ``cirr``.
FashionIQ (Wu et al. 2021): ``captions/cap.KIND.SPLIT.json`` has ``candidate``, ``target`` and two ``captions``,
``image_splits/split.KIND.SPLIT.json`` lists the pictures, and the kind (dress, shirt, toptee) is their label.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cbir.errors import SourceError
from cbir.records import RawItem, RelativeCaption
from cbir.sources.documents import parse_json
from cbir.sources.files import PICTURES, list_files, read_file
from cbir.sources.log import ImportLog

NAME = re.compile(r"cap\.(rc2|dress|shirt|toptee)\.(train|val)\.json")
SPLITS = {"train": "train", "val": "test"}  # the targets of their own test splits are not public
Entry = dict[str, Any]


@dataclass
class _Found:
    """What the files say of one picture."""

    path: str | None = None
    labels: set[str] = field(default_factory=set)
    splits: set[str] = field(default_factory=set)


def find_captions(folder: Path) -> list[Path]:
    """The caption files of CIRR or FashionIQ in ``folder``, those with public targets."""
    paths = [*folder.glob("captions/cap.*.json"), *folder.glob("cirr/captions/cap.*.json")]
    return sorted(path for path in paths if NAME.fullmatch(path.name))


def read_items(folder: Path, captions: list[Path], *, log: ImportLog) -> Iterator[tuple[RawItem, bytes]]:
    """Items and file bytes; a picture that is named but not there, or cannot be read, is named in ``log``.

    A picture of both splits is a test item.

    Raises:
        SourceError: a file is malformed, or none of the pictures is there.
    """
    files = list_files(folder, log=log)
    pictures = {path.stem: path for path in files if path.suffix.lower() in PICTURES}
    seen = False
    for name, found in sorted(_gather(captions).items()):
        named = folder / found.path if found.path else None
        there = named is not None and os.path.isfile(named) and named.resolve().is_relative_to(folder.resolve())
        path = named if there else pictures.get(name)
        if path is None:
            log.skipped.append(f"{name}: named in the captions or splits, but not in the folder")
            continue
        seen = True
        split = "test" if "test" in found.splits else "train"
        file_name = path.relative_to(folder).as_posix()
        if (data := read_file(path, name=file_name, told=log.skipped)) is not None:
            yield RawItem(id=name, file_name=file_name, labels=sorted(found.labels), split=split), data
    if not seen:
        raise SourceError(f"None of the pictures that the captions name is below {folder}; put them there.")


def read_relative(captions: list[Path]) -> list[RelativeCaption]:
    """Every change with its reference and target; the two captions of FashionIQ are joined by "and".

    Raises:
        SourceError: a file is malformed.
    """
    return [pair for path in captions for pair in _read_pairs(path)]


def _read_pairs(path: Path) -> list[RelativeCaption]:
    try:
        return [_read_pair(entry) for entry in _load(path)]
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path} is not of CIRR or FashionIQ: {error!r} is missing or malformed.") from None


def _read_pair(entry: Entry) -> RelativeCaption:
    if "reference" in entry:
        return RelativeCaption(
            reference_id=entry["reference"], caption=entry["caption"].strip(), target_id=entry["target_hard"]
        )
    words = " and ".join(text.strip().rstrip(".") for text in entry["captions"])
    return RelativeCaption(reference_id=entry["candidate"], caption=words, target_id=entry["target"])


def _gather(captions: list[Path]) -> dict[str, _Found]:
    gathered: dict[str, _Found] = {}
    for path in captions:
        match = NAME.fullmatch(path.name)
        assert match is not None, "find_captions gave it"
        kind, split = match.groups()
        for name, place in _list_pictures(path, kind=kind, split=split).items():
            found = gathered.setdefault(name, _Found())
            found.path = found.path or place
            found.splits.add(SPLITS[split])
            if kind != "rc2":
                found.labels.add(kind)
    return gathered


def _list_pictures(captions: Path, *, kind: str, split: str) -> dict[str, str | None]:
    """Every picture of a split, with its path where the files say it; those of the captions if nothing lists them."""
    listed = captions.parent.parent / "image_splits" / f"split.{kind}.{split}.json"
    named: dict[str, str | None] = {
        name: None for pair in _read_pairs(captions) for name in (pair.reference_id, pair.target_id)
    }
    if listed.exists():
        document = _load(listed)
        named |= dict(document) if isinstance(document, dict) else dict.fromkeys(document)
    return named


def _load(path: Path) -> Any:
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"{path} is not valid JSON in UTF-8: {error}") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}; let yourself read it.") from None
    if not isinstance(document, (list, dict)):
        raise SourceError(f"{path} is neither a list nor an object; is the download complete?")
    return document
