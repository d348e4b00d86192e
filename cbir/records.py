"""Which rows travel between steps, and how they lie on disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cbir.errors import WorkspaceError

RAW_ITEMS = "items.jsonl"
RAW_RELATIVE = "relative.jsonl"
SPLITS = ("train", "validation", "test")

ITEM_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),  # the resized RGB image as PNG
        ("source", pa.string()),  # name of the source it was imported from
        ("source_path", pa.string()),  # relative to the raw folder
        ("captions", pa.list_(pa.string())),  # preprocessed; what the encoder reads
        ("original_captions", pa.list_(pa.string())),  # as the user wrote them
        ("labels", pa.list_(pa.string())),
        ("group", pa.string()),  # what must stay together in a split
        ("given_split", pa.string()),  # null unless the source came with splits
        ("attributes", pa.string()),  # the user's own columns, a JSON object
        ("sha256", pa.string()),  # of the source file's bytes
        ("phash", pa.string()),  # 64-bit perceptual hash, 16 hex digits
        ("width", pa.int32()),  # of the source image, in pixels
        ("height", pa.int32()),
    ]
)
BLOCK = 256  # items whose pictures are in memory at once
QUARANTINE_SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("source_path", pa.string()), ("reason", pa.string())]
)
RELATIVE_SCHEMA = pa.schema([("reference_id", pa.string()), ("caption", pa.string()), ("target_id", pa.string())])
SPLIT_SCHEMA = pa.schema([("id", pa.string()), ("split", pa.string()), ("cluster", pa.string())])


@dataclass(frozen=True, kw_only=True)
class RawItem:
    """One picture as a source gives it: a line of ``items.jsonl`` in ``data/raw/SOURCE/``.

    ``file_name`` is relative to the source's folder. ``split`` is kept when the source has one.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}

    id: str
    file_name: str
    captions: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    group: str | None = None
    split: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RelativeCaption:
    """ "This picture, but ...": ``target_id`` is what ``caption`` makes of ``reference_id``."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}

    reference_id: str
    caption: str
    target_id: str


def write_table(path: Path, table: pa.Table) -> None:
    """Write ``table`` beside ``path``, then rename, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    pq.write_table(table, beside, compression="zstd")
    os.replace(beside, path)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` beside ``path``, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def replace_folder(out: Path) -> Iterator[Path]:
    """An empty folder to write into, which becomes ``out`` at the end; after a fault ``out`` is as it was before.

    Killed between the two renames of ``exchange_folder``, it leaves to the next run to put ``out`` back.
    """
    beside, aside = (out.with_name(f".{out.name}.{state}") for state in ("partial", "old"))
    settle_folder(out, aside=aside, trash=beside)
    beside.mkdir(parents=True)
    try:
        yield beside
        exchange_folder(beside, out, aside=aside)
    finally:
        settle_folder(out, aside=aside, trash=beside)


def exchange_folder(beside: Path, out: Path, *, aside: Path) -> None:
    """Put ``beside`` in the place of ``out``, which is whole at ``aside`` then, for ``settle_folder`` to delete.

    POSIX renames no folder onto another that holds something: between two renames ``out`` is not there, and a reader
    of that moment must look again. It is there in part at no time.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.replace(out, aside)
    os.replace(beside, out)


def settle_folder(out: Path, *, aside: Path, trash: Path) -> None:
    """Put back what an exchange that ended between its renames had set aside, or delete it where ``out`` is there.

    Deleted is what lies at ``trash``, so that a folder that was deleted in part is never put back.
    """
    shutil.rmtree(trash, ignore_errors=True)
    if aside.exists():
        target = trash if out.exists() else out
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside, target)
        shutil.rmtree(trash, ignore_errors=True)


def read_json(path: Path) -> Any:
    """What a JSON file of ours holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the object on each line that is not blank."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, beside and then renamed."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))


def read_items(ingested: Path, *, columns: list[str] | None = None) -> pa.Table:
    """Read the item shards of ``ingested`` in id order of writing; leave ``image`` out where not needed.

    ``image`` has 64-bit offsets: with the 32 that it has on disk, rows cannot be taken from over 2 GiB of pictures.

    Raises:
        WorkspaceError: there are no shards.
    """
    return pa.concat_tables(_read_shard(shard, columns) for shard in _list_shards(ingested))


def iterate_items(ingested: Path, *, columns: list[str], rows: int) -> Iterator[pa.Table]:
    """The same in blocks of at most ``rows``, of which one shard at a time is in memory."""
    for shard in _list_shards(ingested):
        yield from cut_table(_read_shard(shard, columns), rows)


def select_items(ingested: Path, ids: Sequence[str], *, columns: list[str], rows: int = BLOCK) -> Iterator[pa.Table]:
    """Of each block of ``iterate_items`` the items with one of ``ids``: no other picture stays in memory."""
    wanted = pa.array(ids, pa.string())
    for block in iterate_items(ingested, columns=["id", *(name for name in columns if name != "id")], rows=rows):
        yield block.filter(pc.is_in(block["id"], wanted))


def count_blocks(ingested: Path, *, rows: int) -> int:
    """How many blocks ``iterate_items`` gives."""
    return sum(-(-pq.read_metadata(shard).num_rows // rows) for shard in _list_shards(ingested))


def cut_table(table: pa.Table, rows: int) -> list[pa.Table]:
    """Slices of at most ``rows``, in order."""
    return [table.slice(start, rows) for start in range(0, table.num_rows, rows)]


def _read_shard(path: Path, columns: list[str] | None) -> pa.Table:
    table = pq.read_table(path, columns=columns)
    place = table.schema.get_field_index("image")
    return table if place < 0 else table.set_column(place, "image", table["image"].cast(pa.large_binary()))


def _list_shards(ingested: Path) -> list[Path]:
    shards = sorted(ingested.glob("items-*.parquet"))
    if not shards:
        raise WorkspaceError(f"{ingested} holds no item shards; run `dvc repro ingest` first.")
    return shards


def read_relative(ingested: Path, ids: Sequence[str]) -> list[tuple[int, str, int]]:
    """Relative captions with both ends among ``ids``, as (row of the reference, words, row of the target)."""
    row = {id_: n for n, id_ in enumerate(ids)}
    return [
        (row[pair["reference_id"]], pair["caption"], row[pair["target_id"]])
        for pair in read_table(ingested / "relative.parquet", made_by="ingest").to_pylist()
        if pair["reference_id"] in row and pair["target_id"] in row
    ]


def read_quarantine(ingested: Path) -> pa.Table:
    """What could not be used: id, source, source_path, reason.

    Raises:
        WorkspaceError: it is not there.
    """
    return read_table(ingested / "quarantine.parquet", made_by="ingest")


def read_table(path: Path, *, made_by: str) -> pa.Table:
    """Read one Parquet file that the stage ``made_by`` writes.

    Raises:
        WorkspaceError: it is not there.
    """
    if not path.exists():
        raise WorkspaceError(f"{path} is not there; run `dvc repro {made_by}` first.")
    return pq.read_table(path)
