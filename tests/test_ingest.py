"""Ingest counts every row: an item, or a line of the quarantine with its reason."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from cbir import ingest as stage
from cbir.cli import app
from cbir.encoder import read_canvas
from cbir.errors import SourceError, WorkspaceError
from cbir.images import Canvas
from cbir.ingest import ingest
from cbir.params import IngestParams
from cbir.records import ITEM_SCHEMA, count_blocks, iterate_items, read_items


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "s"
    folder.mkdir(parents=True)
    for n, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40, 20), colour).save(folder / f"{n}.png")
    return folder.parent


def list_rows(raw: Path, *rows: dict[str, Any]) -> None:
    (raw / "s" / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(n: int, **other: Any) -> dict[str, Any]:
    return {"id": f"s/{n}", "file_name": f"{n}.png"} | other


def test_an_item_carries_its_hashes_and_the_text_as_written(raw: Path, tmp_path: Path) -> None:
    list_rows(raw, row(0, captions=[" a  red &amp; plain one "], attributes={"price": 3}))
    ingest(raw, tmp_path / "out", params=IngestParams())
    table = read_items(tmp_path / "out")
    item = table.to_pylist()[0]
    assert pq.read_schema(tmp_path / "out" / "items-00000.parquet").equals(ITEM_SCHEMA)
    assert item["sha256"] == hashlib.sha256((raw / "s" / "0.png").read_bytes()).hexdigest()
    assert (item["captions"], item["original_captions"]) == (["a red & plain one"], [" a  red &amp; plain one "])
    assert (item["width"], item["height"], len(item["phash"])) == (40, 20, 16)


def test_a_blank_label_or_caption_is_none(raw: Path, tmp_path: Path) -> None:
    list_rows(raw, row(0, captions=["", None, " \t", "red"], labels=["", " ", None, "colour"]), row(1, labels=[""]))
    ingest(raw, tmp_path / "out", params=IngestParams())
    items = read_items(tmp_path / "out").to_pylist()
    assert [item["labels"] for item in items] == [["colour"], []]
    assert (items[0]["captions"], items[0]["original_captions"]) == (["red"], ["red"])


def test_bad_rows_are_quarantined_with_their_reason(raw: Path, tmp_path: Path) -> None:
    (raw / "s" / "folder").mkdir()
    (raw / "s" / "1.png").write_bytes((raw / "s" / "1.png").read_bytes()[:50])
    list_rows(raw, row(0), row(1), row(0), row(3), {"id": "s/d", "file_name": "folder"}, row(2))
    counts = ingest(raw, tmp_path / "out", params=IngestParams())
    bad = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert counts == {"items": 2, "quarantined": 4, "relative": 0}
    for line, reason in zip(bad, ("decoded", "already", "missing", "cannot be read"), strict=True):
        assert reason in line["reason"]


def test_the_command_lists_what_could_not_be_used_and_why(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (raw / "s" / "1.png").write_bytes(b"no picture")
    list_rows(raw, row(0), row(1))
    ingest(raw, tmp_path / "data" / "ingested", params=IngestParams())
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    shown, told = (CliRunner().invoke(app, ["data", "quarantine", *options]) for options in ([], ["--json"]))
    (line,) = json.loads(told.stdout)
    assert line["id"] == "s/1"
    assert shown.stdout.splitlines()[1].split(maxsplit=1) == ["s/1", line["reason"]]


def test_a_picture_with_too_short_a_side_is_quarantined(raw: Path, tmp_path: Path) -> None:
    list_rows(raw, row(0), row(1))
    Image.new("RGB", (300, 19), "red").save(raw / "s" / "1.png")
    counts = ingest(raw, tmp_path / "out", params=IngestParams(least_side=20))
    bad = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert (counts["items"], [line["id"] for line in bad]) == (1, ["s/1"])
    assert bad[0]["reason"] == "300 x 19 pixels are too few; ingest.least_side is 20"


def test_what_pictures_were_fitted_into_is_told_to_who_trains_on_them(raw: Path, tmp_path: Path) -> None:
    list_rows(raw, row(0))
    ingest(raw, tmp_path / "out", params=IngestParams(image_size=40, background="black"))
    assert read_canvas(tmp_path / "out" / "ingest.json") == Canvas(size=40, background="black")
    assert read_canvas(tmp_path / "earlier.json") == Canvas(size=224, background="white")


def test_only_relative_captions_with_both_ends_remain(raw: Path, tmp_path: Path) -> None:
    list_rows(raw, row(0), row(1))
    pairs = [{"reference_id": "s/0", "caption": "greener", "target_id": f"s/{n}"} for n in (1, 9, 0)]
    (raw / "s" / "relative.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    ingest(raw, tmp_path / "out", params=IngestParams())
    assert pq.read_table(tmp_path / "out" / "relative.parquet").to_pylist() == pairs[:1]


def test_no_usable_picture_is_an_error_and_keeps_the_earlier_output(raw: Path, tmp_path: Path) -> None:
    list_rows(raw, row(0))
    ingest(raw, tmp_path / "out", params=IngestParams())
    list_rows(raw, row(7))
    with pytest.raises(SourceError, match="missing"):
        ingest(raw, tmp_path / "out", params=IngestParams())
    assert read_items(tmp_path / "out").num_rows == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


ITEM = '{"id": "s/0", "file_name": "0.png"'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{nope", "Invalid JSON"),
        ('{"id": "s/0"}', "file_name: Field required"),
        (ITEM + ', "colour": 1}', "colour: Unexpected keyword argument"),
        (ITEM + ', "captions": "red"}', "captions: Input should be a valid array"),
        (ITEM + ', "captions": null}', "captions: Input should be a valid array"),
        (ITEM + ', "labels": [5]}', r"labels\.0: Input should be a valid string"),
        (ITEM + ', "group": 3}', "group: Input should be a valid string"),
        ('{"id": "s/0", "file_name": "../0.png"}', r"\.\./0\.png is not in the source's folder"),
        ('{"id": "s/0", "file_name": "/0.png"}', "/0.png is not in the source's folder"),
    ],
)
def test_a_malformed_line_is_named_with_what_is_wrong(raw: Path, tmp_path: Path, text: str, said: str) -> None:
    (raw / "s" / "items.jsonl").write_text(f"\n{text}\n")
    with pytest.raises(SourceError, match=rf"items\.jsonl, line 2: {said}"):
        ingest(raw, tmp_path / "out", params=IngestParams())


@pytest.mark.parametrize("text", ["{nope", '{"reference_id": "s/0"}'])
def test_a_malformed_list_of_relative_captions_is_one_clear_error(raw: Path, tmp_path: Path, text: str) -> None:
    list_rows(raw, row(0))
    (raw / "s" / "relative.jsonl").write_text(text + "\n")
    with pytest.raises(SourceError, match=r"relative\.jsonl, line 1: "):
        ingest(raw, tmp_path / "out", params=IngestParams())


def test_shards_hold_no_more_rows_than_asked_in_the_order_listed(raw: Path, tmp_path: Path) -> None:
    list_rows(raw, row(2), row(0), row(1))
    ingest(raw, tmp_path / "out", params=IngestParams(shard_rows=2))
    assert len(list((tmp_path / "out").glob("items-*.parquet"))) == 2
    assert read_items(tmp_path / "out")["id"].to_pylist() == ["s/2", "s/0", "s/1"]


def test_pictures_are_read_so_that_rows_of_any_number_of_bytes_can_be_taken(raw: Path, tmp_path: Path) -> None:
    list_rows(raw, row(2), row(0), row(1))
    ingest(raw, tmp_path / "out", params=IngestParams(shard_rows=2))
    table = read_items(tmp_path / "out")
    blocks = list(iterate_items(tmp_path / "out", columns=["id", "image"], rows=1))
    assert {one["image"].type for one in (table, *blocks)} == {pa.large_binary()}  # 32 bits would end at 2 GiB
    taken = table.take([2, 0])
    assert taken.to_pylist() == [table.to_pylist()[n] for n in (2, 0)]
    assert pa.concat_tables(blocks)["image"].to_pylist() == table["image"].to_pylist()


def test_items_come_in_blocks_in_their_order_too(raw: Path, tmp_path: Path) -> None:
    list_rows(raw, row(2), row(0), row(1))
    ingest(raw, tmp_path / "out", params=IngestParams(shard_rows=2))
    for rows, expected in ((1, [["s/2"], ["s/0"], ["s/1"]]), (9, [["s/2", "s/0"], ["s/1"]])):
        blocks = iterate_items(tmp_path / "out", columns=["id"], rows=rows)
        assert [block["id"].to_pylist() for block in blocks] == expected
        assert count_blocks(tmp_path / "out", rows=rows) == len(expected)
    with pytest.raises(WorkspaceError, match="dvc repro ingest"):
        next(iterate_items(tmp_path, columns=["id"], rows=1))


def test_the_same_input_gives_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    list_rows(raw, row(0), row(1), row(2))
    for name in ("one", "two"):
        ingest(raw, tmp_path / name, params=IngestParams())
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_fault_ends_the_reading_of_pictures_soon(
    raw: Path, tmp_path: Path, fault: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = stage.AHEAD * (os.cpu_count() or 1)
    list_rows(raw, *({"id": f"s/{n}", "file_name": "0.png"} for n in range(20 * window)))
    read, decode = list[int](), stage.decode_image

    def count(data: bytes, **options: Any) -> Image.Image:
        read.append(len(data))
        return decode(data, **options)

    def fail(path: Path, table: pa.Table) -> None:
        raise fault

    monkeypatch.setattr(stage, "decode_image", count)
    monkeypatch.setattr(stage, "write_table", fail)
    with pytest.raises(type(fault)):
        ingest(raw, tmp_path / "out", params=IngestParams(shard_rows=3))
    fault.__traceback__ = None  # with it goes what still reads
    assert 3 <= len(read) <= 3 + window
