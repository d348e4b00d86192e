"""What a row of an index table says of its item, and by which hashes it is told whether that still holds."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cbir.images import decode_png, make_thumbnail

THUMBNAIL = 112
SHA256, TEXT_HASH, ROW_HASH, REFRESHED_AT = "sha256", "text_hash", "row_hash", "refreshed_at"
ADDED = {SHA256: pa.string(), TEXT_HASH: pa.string(), ROW_HASH: pa.string(), REFRESHED_AT: pa.string()}
OWN = (
    "id",
    "vector",
    "caption",
    "label",
    "labels",
    "source",
    "source_path",
    "group",
    "attributes",
    "thumbnail",
    *ADDED,
)
HIDDEN = ("vector", "thumbnail", TEXT_HASH, ROW_HASH)  # of no use to who searches
HASHED = ("id", "source", "source_path", "captions", "original_captions", "labels", "group", "attributes", SHA256)
TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
SCALARS = tuple(TYPES)
_encode = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Hashes of an item: of its file, of the words that the encoder reads, and of all that its row is made of."""

    sha256: str | None
    text_hash: str | None
    row_hash: str | None


def mark_item(item: dict[str, Any]) -> Marks:
    """The hashes of an item as ``ingest`` describes it; the picture itself is not needed."""
    return Marks(
        sha256=item[SHA256],
        text_hash=_hash(item["captions"] or []),
        row_hash=hash_row(item),
    )


def hash_row(item: dict[str, Any]) -> str:
    """The hash of all that an item's row is made of: where it is the same, the other marks are, too."""
    return _hash([item[name] or None for name in HASHED])


def _hash(value: Any) -> str:
    return hashlib.sha256(_encode(value).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def name_column(attribute: str) -> str | None:
    """The column that an attribute is searched by; None where its name is the table's own, or LanceDB's.

    LanceDB refuses a dot in a name and cannot search where one has a backtick; its own names begin with "_".
    """
    name = attribute.replace(".", "_").replace("`", "_")
    return None if not name or name.startswith("_") or name in OWN else name


def find_types(attributes: Iterable[str]) -> dict[str, pa.DataType]:
    """The user's own columns of items with these attributes: each name with the type of its values, in order.

    Whole and broken numbers are numbers; an attribute whose values are of several types has no column.
    """
    kinds: dict[str, set[type]] = defaultdict(set)
    for text in attributes:
        for name, value in _name_columns(json.loads(text)).items():
            if value is not None:
                kinds[name].add(_find_kind(value))
    types = {}
    for name, found in sorted(kinds.items()):
        kind, *others = {float} if found == {int, float} else found
        if kind in TYPES and not others:
            types[name] = TYPES[kind]
    return types


def build_rows(
    items: pa.Table, vectors: pa.Array | pa.ChunkedArray, *, types: dict[str, pa.DataType], refreshed_at: str | None
) -> pa.Table:
    """Rows of ``items``, which may be a part of all, with their vectors; ``types`` as ``find_types`` found of all."""
    columns = _build_columns(items, vectors, refreshed_at=refreshed_at)
    attributes = [_name_columns(row) for row in _read_attributes(items)]
    for name, kind in types.items():
        values = [row.get(name) for row in attributes]
        if pa.types.is_floating(kind):  # of a whole number that a float cannot hold exactly, the nearest
            values = [None if value is None else float(value) for value in values]
        columns[name] = pa.array(values, kind)
    return pa.table(columns)


def fit_rows(
    items: pa.Table, vectors: pa.Array | pa.ChunkedArray, *, schema: pa.Schema, refreshed_at: str
) -> tuple[pa.Table, list[str]]:
    """The same in the columns of a table that is there.

    Returns:
        The rows, and the names of attributes of which a value has no column or is not of its type: these are in
        ``attributes`` and come back with a hit, but cannot be searched by.
    """
    columns = _build_columns(items, vectors, refreshed_at=refreshed_at)
    attributes = [_name_columns(row) for row in _read_attributes(items)]
    if "labels" in schema.names and not pa.types.is_list(schema.field("labels").type):
        del columns["labels"]  # the table is of an earlier version of cbir-ops, and this an attribute
    own = [name for name in schema.names if name not in columns]
    fitted = {name: [_fit(row.get(name), schema.field(name).type) for row in attributes] for name in own}
    left_out = {
        name
        for n, row in enumerate(attributes)
        for name, value in row.items()
        if isinstance(value, SCALARS) and (name not in own or fitted[name][n] is None)
    }
    columns |= {name: pa.array(values, schema.field(name).type) for name, values in fitted.items()}
    arrays = [
        column.cast(schema.field(name).type) if isinstance(column, pa.Array | pa.ChunkedArray) else column
        for name, column in ((name, columns[name]) for name in schema.names)
    ]
    return pa.table(arrays, schema=schema.remove_metadata()), sorted(left_out)


def _build_columns(items: pa.Table, vectors: pa.Array | pa.ChunkedArray, *, refreshed_at: str | None) -> dict[str, Any]:
    captions, labels = items["original_captions"].to_pylist(), items["labels"].to_pylist()
    marks = [mark_item(item) for item in items.select(HASHED).to_pylist()]
    return {
        "id": items["id"],
        "vector": vectors,
        "caption": pa.array([texts[0] if texts else "" for texts in captions], pa.string()),
        "label": pa.array([row[0] if row else "" for row in labels], pa.string()),
        "labels": pa.array([row or [] for row in labels], pa.list_(pa.string())),
        "source": items["source"],
        "source_path": items["source_path"],
        "group": items["group"],
        "attributes": items["attributes"],
        "thumbnail": pa.array(_make_thumbnails(items["image"].to_pylist()), pa.binary()),
        SHA256: pa.array([mark.sha256 for mark in marks], pa.string()),
        TEXT_HASH: pa.array([mark.text_hash for mark in marks], pa.string()),
        ROW_HASH: pa.array([mark.row_hash for mark in marks], pa.string()),
        REFRESHED_AT: pa.array([refreshed_at] * items.num_rows, pa.string()),
    }


def _read_attributes(items: pa.Table) -> list[dict[str, Any]]:
    return [json.loads(text) for text in items["attributes"].to_pylist()]


def _name_columns(attributes: dict[str, Any]) -> dict[str, Any]:
    """Those that can be searched by, under the names of their columns; a name that needs no change goes before."""
    named = ((name_column(key), key) for key in sorted(attributes, key=lambda key: name_column(key) == key))
    return {name: attributes[key] for name, key in named if name is not None}


def _fit(value: Any, kind: pa.DataType) -> Any:
    """``value`` where it is of the column's type, else None."""
    if value is None or isinstance(value, bool) != pa.types.is_boolean(kind):
        return None
    try:
        if pa.types.is_floating(kind) and isinstance(value, int):
            value = float(value)
        fitted = pa.scalar(value, kind).as_py()
        return fitted if fitted == value else None
    except (pa.ArrowException, OverflowError):
        return None


def _find_kind(value: Any) -> type:
    """Its type; a whole number of over 64 bits, such as a long article number, is searchable as the nearest float."""
    return float if type(value) is int and not -(2**63) <= value < 2**63 else type(value)


def _make_thumbnails(images: list[bytes]) -> list[bytes]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes and scales outside the interpreter's lock
        return list(pool.map(lambda png: make_thumbnail(decode_png(png), side=THUMBNAIL), images))
