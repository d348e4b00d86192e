"""How COCO-style JSON (captions and instances, or a Karpathy split) with its pictures becomes items."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cbir.errors import SourceError
from cbir.records import RawItem
from cbir.sources.documents import parse_json
from cbir.sources.files import list_files, name_item, read_file, shorten
from cbir.sources.log import ImportLog

KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}
Entry = dict[str, Any]


def find_annotations(folder: Path) -> list[Path]:
    """The COCO or Karpathy JSON files in ``folder`` or its ``annotations``, by what they hold."""
    paths = sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")])
    return [path for path in paths if _looks_right(path)]


def read_items(folder: Path, annotations: list[Path], *, log: ImportLog) -> Iterator[tuple[RawItem, bytes]]:
    """Items and file bytes; a picture that is named but not there, or cannot be read, is named in ``log``.

    Raises:
        SourceError: a file is malformed, or none of the pictures is there.
    """
    pictures = _list_pictures(folder, log=log)
    found = False
    for item in _gather(annotations, log=log):
        path = _find_picture(folder, item.file_name, pictures)
        if path is None:
            log.skipped.append(f"{item.file_name}: named in the annotations, but not in the folder, or there twice")
            continue
        found = True
        if (data := read_file(path, name=item.file_name, told=log.skipped)) is not None:
            yield item, data
    if not found:
        raise SourceError(f"None of the pictures that the annotations name is below {folder}; put them there.")


def _looks_right(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError:  # it is told among those that were not read
        return False
    return b'"images"' in head or b'"annotations"' in head


def _load(path: Path) -> Entry:
    try:
        document = parse_json(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise SourceError(f"{path} is not valid JSON in UTF-8: {error}") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}; let yourself read it.") from None
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise SourceError(f"{path} has no list of images; give COCO captions/instances or Karpathy JSON.")
    return document


def _gather(paths: list[Path], *, log: ImportLog) -> list[RawItem]:
    """Items in the order in which the files first name their pictures."""
    items: dict[str, RawItem] = {}  # by their file's name
    for path in paths:
        document = _load(path)
        try:
            for item in _read_karpathy(document) if _is_karpathy(document) else _read_coco(document):
                name = item.file_name
                items[name] = _merge(items[name], item) if name in items else item
            log.remarks.extend(_name_unlisted(document, path))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise SourceError(f"{path} is not COCO or Karpathy JSON: {error!r} is missing or malformed.") from None
    named: dict[str, RawItem] = {}
    for item in items.values():
        id_ = name_item(item.file_name, named)
        named[id_] = replace(item, id=id_)
    return list(named.values())


def _is_karpathy(document: Entry) -> bool:
    return any("sentences" in image for image in document["images"][:1])


def _read_karpathy(document: Entry) -> Iterator[RawItem]:
    for image in document["images"]:
        file_name = "/".join(part for part in (image.get("filepath"), image["filename"]) if part)
        yield RawItem(
            id="",  # named when all are known
            file_name=_check_name(file_name),
            captions=[str(sentence["raw"]) for sentence in image["sentences"] if sentence["raw"] is not None],
            split=KARPATHY_SPLITS.get(image.get("split", "")),
        )


def _read_coco(document: Entry) -> Iterator[RawItem]:
    names = {category["id"]: category for category in document.get("categories", [])}
    captions: dict[Any, list[str]] = {}
    labels: dict[Any, set[str]] = {}
    for annotation in document.get("annotations", []):
        image = annotation["image_id"]
        if annotation.get("caption") is not None:
            captions.setdefault(image, []).append(str(annotation["caption"]))
        if "category_id" in annotation:
            labels.setdefault(image, set()).add(_label(_find_category(annotation, names)))
    for image in document["images"]:
        yield RawItem(
            id="",  # as above
            file_name=_check_name(image["file_name"]),
            captions=captions.get(image["id"], []),
            labels=sorted(labels.get(image["id"], ())),
        )


def _name_unlisted(document: Entry, path: Path) -> Iterator[str]:
    """Images that have annotations, and no place in the list that gives their files."""
    listed = {image.get("id") for image in document["images"]}
    annotated = dict.fromkeys(annotation.get("image_id") for annotation in document.get("annotations", []))
    lost = [str(image) for image in annotated if image not in listed]
    if lost:
        shown = shorten(lost)
        yield f"{path.name}: annotations of {len(lost)} images that its list images lacks: {shown}; not imported"


def _find_category(annotation: Entry, names: Mapping[Any, Entry]) -> Entry:
    try:
        return names[annotation["category_id"]]
    except KeyError as error:
        raise SourceError(
            f"An annotation of image {annotation['image_id']} has category {error}, which the list categories lacks; "
            "mend the COCO file."
        ) from None


def _check_name(file_name: str) -> str:
    if not Path(file_name).name:
        raise ValueError(f"file_name {file_name!r}")
    return file_name


def _label(category: Entry) -> str:
    return "/".join(part for part in (category.get("supercategory"), category["name"]) if part)


def _merge(one: RawItem, other: RawItem) -> RawItem:
    return RawItem(
        id=one.id,
        file_name=one.file_name,
        captions=list(dict.fromkeys([*one.captions, *other.captions])),
        labels=sorted({*one.labels, *other.labels}),
        split=one.split or other.split,
    )


def _list_pictures(folder: Path, *, log: ImportLog) -> dict[str, Path | None]:
    """Files by their bare name; None where two folders hold the name, for then it says too little."""
    pictures: dict[str, Path | None] = {}
    for path in list_files(folder, log=log):
        if path.suffix.lower() != ".json":
            pictures[path.name] = None if path.name in pictures else path
    return pictures


def _find_picture(folder: Path, file_name: str, pictures: dict[str, Path | None]) -> Path | None:
    """As named if that is below the folder, else by its bare name: the files say nothing of the folders."""
    named = folder / file_name
    if os.path.isfile(named) and named.resolve().is_relative_to(folder.resolve()):
        return named
    return pictures.get(Path(file_name).name)
