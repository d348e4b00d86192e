"""How WebDataset tar shards, as img2dataset writes them, become items."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from cbir.errors import SourceError
from cbir.records import RawItem
from cbir.sources.documents import parse_json
from cbir.sources.files import PICTURES
from cbir.sources.log import ImportLog

ENDINGS = {ending.removeprefix(".") for ending in PICTURES}


def find_shards(source: Path) -> list[Path]:
    """The tar shards of a folder, or the one that ``source`` is."""
    return [source] if source.suffix == ".tar" and source.is_file() else sorted(source.glob("*.tar"))


def read_items(shards: list[Path], *, log: ImportLog) -> Iterator[tuple[RawItem, bytes]]:
    """Items and file bytes, one sample in memory at a time; a sample without a picture is named in ``log``.

    Raises:
        SourceError: a shard cannot be read, a key is there twice, or no sample has a picture.
    """
    seen: set[str] = set()
    for shard in shards:
        for key, parts in _read_samples(shard):
            ending = next((ending for ending in parts if ending in ENDINGS), None)
            if ending is None:
                log.skipped.append(f"{key}: has no picture in {shard.name}")
                continue
            if key in seen:
                raise SourceError(f"{shard} holds the key {key!r} again; keys must be unique over all shards.")
            seen.add(key)
            yield _build_item(key, ending, parts, shard=shard), parts[ending]
    if not seen:
        raise SourceError(f"No sample of {shards[0].parent} has a picture ({', '.join(sorted(ENDINGS))}).")


def _read_samples(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    try:
        with tarfile.open(shard, "r:") as tar:
            for key, members in groupby((m for m in tar if m.isfile()), key=lambda member: _split(member.name)[0]):
                yield key, {_split(member.name)[1]: _read(tar, member) for member in members}
    except (tarfile.TarError, OSError) as error:
        raise SourceError(f"{shard} cannot be read: {error}; is the download complete?") from None


def _split(name: str) -> tuple[str, str]:
    """The key is the path up to the first dot of the base name, as WebDataset has it."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, _, ending = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), ending.lower()


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "only plain files are asked for"
    return file.read()


def _build_item(key: str, ending: str, parts: dict[str, bytes], *, shard: Path) -> RawItem:
    about = _read_json(parts.get("json", b"{}"), key=key, shard=shard)
    caption = _decode(parts["txt"], key=key, shard=shard).strip() if "txt" in parts else about.get("caption")
    label = _decode(parts["cls"], key=key, shard=shard).strip() if "cls" in parts else None
    return RawItem(
        id=key,
        file_name=f"{key}.{ending}",
        captions=[str(caption)] if caption else [],
        labels=[label] if label else [],
        attributes={name: value for name, value in about.items() if name != "caption" and value is not None},
    )


def _read_json(data: bytes, *, key: str, shard: Path) -> dict[str, Any]:
    try:
        about = parse_json(data)
    except ValueError as error:
        raise SourceError(f"{shard}: {key}.json is not valid JSON in UTF-8: {error}") from None
    if not isinstance(about, dict):
        raise SourceError(f"{shard}: {key}.json is not a JSON object.")
    return about


def _decode(data: bytes, *, key: str, shard: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(f"{shard}: the text of {key} is not UTF-8; write the shard again from UTF-8.") from None
