"""Every reader of a list in the raw folder is told the same of each line: its row, or what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbir.raw_lists import read_list
from cbir.records import RawItem, RelativeCaption

START = b'{"id": "s/0", "file_name": "0.png"'
ITEM = RawItem(id="s/0", file_name="0.png")


def test_lines_come_with_their_numbers_as_written_and_blank_ones_do_not(tmp_path: Path) -> None:
    lines = [b"", START + b"}", b"  ", b"{nope", START + b"}\r"]
    (tmp_path / "items.jsonl").write_bytes(b"\n".join(lines))
    found = list(read_list(tmp_path / "items.jsonl", RawItem))
    assert [(number, line) for number, line, _ in found] == [(2, lines[1]), (4, lines[3]), (5, lines[4])]
    assert [row for _, _, row in found[::2]] == [ITEM, ITEM]
    assert str(found[1][2]).startswith("Invalid JSON")


def test_relative_captions_are_read_in_the_same_way(tmp_path: Path) -> None:
    good = b'{"reference_id": "s/0", "caption": "redder", "target_id": "s/1"}'
    (tmp_path / "relative.jsonl").write_bytes(good + b"\n" + good.replace(b'"redder"', b"3"))
    rows = [row for _, _, row in read_list(tmp_path / "relative.jsonl", RelativeCaption)]
    assert rows == [
        RelativeCaption(reference_id="s/0", caption="redder", target_id="s/1"),
        "caption: Input should be a valid string",
    ]


@pytest.mark.parametrize(
    ("end", "row"),
    [
        (b', "captions": [null, "red"]}', RawItem(id="s/0", file_name="0.png", captions=["red"])),
        (b', "attributes": {"a": NaN, "b": [-Infinity, 1]}}', {"a": None, "b": [None, 1]}),
        (b', "attributes": {"a": "NaN"}}', {"a": "NaN"}),
        (b', "captions": "NaN"}', "captions: Input should be a valid array"),
        (b", NaN}", "Invalid JSON: key must be a string at line 1 column 37"),
        (b', "labels": [null, 5]}', "labels.0: Input should be a valid string"),
    ],
)
def test_what_an_older_import_left_is_read_and_what_is_wrong_is_told(
    tmp_path: Path, end: bytes, row: RawItem | dict[str, object] | str
) -> None:
    (tmp_path / "items.jsonl").write_bytes(START + end)
    expected = RawItem(id="s/0", file_name="0.png", attributes=row) if isinstance(row, dict) else row
    assert next(read_list(tmp_path / "items.jsonl", RawItem))[2] == expected
