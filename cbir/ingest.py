"""How raw files become checked, decoded, resized, hashed rows; what cannot be used goes to quarantine."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import imagehash
import pyarrow as pa

from cbir.errors import CbirError, ImageError, SourceError
from cbir.images import decode_image, encode_png, fit_square
from cbir.params import IngestParams
from cbir.params.file import load_section
from cbir.progress import follow
from cbir.raw_lists import read_list
from cbir.records import (
    ITEM_SCHEMA,
    QUARANTINE_SCHEMA,
    RAW_ITEMS,
    RAW_RELATIVE,
    RELATIVE_SCHEMA,
    RawItem,
    RelativeCaption,
    replace_folder,
    write_json,
    write_table,
)
from cbir.texts import clean_caption

TAKEN = "the id is there already"
UNREADABLE = "the file cannot be read"
AHEAD = 2  # pictures read for each processor before they are asked for
Row = dict[str, Any]
encode_attributes = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


def ingest(raw: Path, out: Path, *, params: IngestParams) -> dict[str, int]:
    """Turn every source below ``raw`` into Parquet shards, a quarantine table and relative captions.

    Returns:
        The numbers of items, quarantined rows and relative captions.

    Raises:
        SourceError: there is no source, or no usable picture in any.
    """
    listed = list_raw(raw)
    with replace_folder(out) as folder:
        good, bad = _write_shards(listed, folder, params=params)
        if not good:
            raise SourceError(f"None of {len(listed)} pictures can be used; the first: {bad[0]['reason']}.")
        write_table(folder / "quarantine.parquet", pa.Table.from_pylist(bad, schema=QUARANTINE_SCHEMA))
        relative = [
            pair
            for path in sorted(raw.glob(f"*/{RAW_RELATIVE}"))
            for pair in _read_rows(path, RelativeCaption)
            if pair["reference_id"] != pair["target_id"] and {pair["reference_id"], pair["target_id"]} <= good
        ]
        write_table(folder / "relative.parquet", pa.Table.from_pylist(relative, schema=RELATIVE_SCHEMA))
        counts = {"items": len(good), "quarantined": len(bad), "relative": len(relative)}
        canvas = {"image_size": params.image_size, "background": params.background}
        write_json(folder / "ingest.json", counts | canvas)
    return counts


def list_raw(raw: Path) -> list[tuple[Path, Row]]:
    """Every item below ``raw`` as its source lists it, with the source's folder.

    Raises:
        SourceError: there is none, or a list is malformed.
    """
    return list(iterate_raw(raw))


def iterate_raw(raw: Path) -> Iterator[tuple[Path, Row]]:
    """The same, one by one.

    Raises:
        SourceError: at the end, that there was none; or a list is malformed, when its turn comes.
    """
    found = False
    for path in sorted(raw.glob(f"*/{RAW_ITEMS}")):
        for row in _read_rows(path, RawItem):
            found = True
            yield path.parent, row
    if not found:
        raise SourceError(f"{raw} holds no source; run `cbir-ops data import openmoji`, or import a folder.")


def _read_rows(path: Path, kind: type[RawItem | RelativeCaption]) -> Iterator[Row]:
    """The rows of one source, whole.

    Raises:
        SourceError: a line is malformed.
    """
    for number, _, row in read_list(path, kind):
        if isinstance(row, str):
            raise SourceError(f"{path}, line {number}: {row}; mend it there.")
        yield vars(row)


def _write_shards(listed: list[tuple[Path, Row]], out: Path, *, params: IngestParams) -> tuple[set[str], list[Row]]:
    good: set[str] = set()
    bad: list[Row] = []
    rows = _read_items(listed, params=params)
    shard = 0
    while block := list(islice(rows, params.shard_rows)):
        kept = []
        for row in block:
            if "reason" not in row and row["id"] in good:
                row = _refuse(row, TAKEN)
            if "reason" in row:
                bad.append(row)
            else:
                good.add(row["id"])
                kept.append(row)
        if kept:
            write_table(out / f"items-{shard:05d}.parquet", pa.Table.from_pylist(kept, schema=ITEM_SCHEMA))
            shard += 1
    return good, bad


def _read_items(listed: list[tuple[Path, Row]], *, params: IngestParams) -> Iterator[Row]:
    rows = read_ahead(listed, params=params)
    yield from follow(rows, total=len(listed), description="ingest")


def read_ahead(listed: list[tuple[Path, Row]], *, params: IngestParams) -> Iterator[Row]:
    """Rows in their order, of which few are read before they are asked for: a fault ends it soon, memory is bounded."""
    workers = os.cpu_count() or 1
    entries = iter(listed)
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[Row]] = deque()
        while True:
            for entry in islice(entries, AHEAD * workers - len(running)):
                running.append(pool.submit(read_item, *entry, params=params))
            if not running:
                return
            yield running.popleft().result()


def describe_item(folder: Path, item: Row) -> Row:
    """What is known of an item before its file is opened; a blank caption or label is none."""
    captions = [(text, clean_caption(text)) for text in _drop_blank(item["captions"])]
    return {
        "id": item["id"],
        "source": folder.name,
        "source_path": f"{folder.name}/{item['file_name']}",
        "captions": [clean for _, clean in captions if clean],
        "original_captions": [text for text, clean in captions if clean],
        "labels": _drop_blank(item["labels"]),
        "group": item["group"] or item["id"],
        "given_split": item["split"],
        "attributes": encode_attributes(item["attributes"]),
    }


def _drop_blank(texts: list[str | None]) -> list[str]:
    """An older import may have left a null among them."""
    return [str(text) for text in texts if text is not None and str(text).strip()]


def read_item(folder: Path, item: Row, *, params: IngestParams) -> Row:
    """An item with its picture, in ``ITEM_SCHEMA``; or why it cannot be used, in ``QUARANTINE_SCHEMA``."""
    row = describe_item(folder, item)
    try:
        data = (folder / item["file_name"]).read_bytes()
        image = decode_image(data, max_pixels=params.max_pixels, background=params.background)
    except (FileNotFoundError, NotADirectoryError):
        return _refuse(row, "the file is missing")
    except OSError as error:
        return _refuse(row, f"{UNREADABLE}: {error.strerror}")
    except ImageError as error:
        return _refuse(row, str(error))
    if min(image.size) < params.least_side:
        size = f"{image.width} x {image.height}"
        return _refuse(row, f"{size} pixels are too few; ingest.least_side is {params.least_side}")
    fitted = fit_square(image, size=params.image_size, background=params.background)
    return row | {
        "image": encode_png(fitted),
        "sha256": hashlib.sha256(data).hexdigest(),
        "phash": str(imagehash.phash(fitted)),
        "width": image.width,
        "height": image.height,
    }


def _refuse(row: Row, reason: str) -> Row:
    return {key: row[key] for key in ("id", "source", "source_path")} | {"reason": reason}


def main() -> None:
    """Run the stage: ``python -m cbir.ingest RAW OUT``."""
    raw, out = map(Path, sys.argv[1:3])
    try:
        counts = ingest(raw, out, params=load_section(Path("params.yaml"), "ingest", IngestParams))
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
