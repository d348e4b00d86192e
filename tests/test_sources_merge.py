"""What is imported under a name that is there joins it: items, relative captions, and what was damaged is told."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from raw_files import png, put

from cbir.records import read_jsonl
from cbir.sources import ImportReport, import_source


def put_part(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """A data set as CIRR is laid out."""
    (folder / "captions").mkdir(parents=True, exist_ok=True)
    pairs = [{"reference": one, "caption": words, "target_hard": other} for one, words, other in changes]
    (folder / "captions/cap.rc2.train.json").write_text(json.dumps(pairs))
    for name in {end for one, _, other in changes for end in (one, other)}:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(buffer, "PNG")
        (folder / f"{name}.png").write_bytes(buffer.getvalue())
    return folder


def take(source: Path) -> ImportReport:
    return import_source(str(source), name="mine", raw=source.parent / "raw")


def changes_of(tmp_path: Path) -> list[tuple[str, str, str]]:
    rows = read_jsonl(tmp_path / "raw/mine/relative.jsonl")
    ends = ((row["reference_id"], row["caption"], row["target_id"]) for row in rows)
    return [(one.removeprefix("mine/"), words, other.removeprefix("mine/")) for one, words, other in ends]


def test_new_relative_captions_of_known_pictures_are_added_and_counted(tmp_path: Path) -> None:
    take(put_part(tmp_path / "set", ("a", "redder", "b")))
    report = take(put_part(tmp_path / "set", ("a", "redder", "b"), ("b", "darker", "a")))
    assert (report.added, report.unchanged, report.relative) == (0, 2, 1)
    assert changes_of(tmp_path) == [("a", "redder", "b"), ("b", "darker", "a")]
    assert report.summary == "mine: 0 added, 2 unchanged, 0 left out; 1 relative captions added"


def test_a_second_part_adds_its_relative_captions_to_those_of_the_first(tmp_path: Path) -> None:
    take(put_part(tmp_path / "one", ("a", "redder", "b")))
    report = take(put_part(tmp_path / "two", ("c", "darker", "d")))
    assert (report.added, report.relative) == (2, 1)
    assert changes_of(tmp_path) == [("a", "redder", "b"), ("c", "darker", "d")]


def test_blank_and_repeated_captions_and_labels_are_none(tmp_path: Path) -> None:
    put(tmp_path / "set", "a.png")
    row = {"file_name": "a.png", "captions": [" a zebu", "", "a zebu ", "&nbsp;", "\u200b"], "labels": ["  ", "x", "x"]}
    put(tmp_path / "set", "metadata.jsonl", json.dumps(row).encode())
    take(tmp_path / "set")
    found = next(read_jsonl(tmp_path / "raw/mine/items.jsonl"))
    assert (found["captions"], found["labels"]) == (["a zebu"], ["x"])


def test_items_with_other_words_are_counted_as_changed(tmp_path: Path) -> None:
    for words in ("a zebu", "a cow"):
        put(tmp_path / "set", "a.png", png("red"))
        put(tmp_path / "set", "a.txt", words.encode())
        put(tmp_path / "set", "b.png", png("blue"))
        report = take(tmp_path / "set")
    assert report.summary == "mine: 0 added, 1 changed, 1 unchanged, 0 left out"
    assert take(tmp_path / "set").summary == "mine: 0 added, 2 unchanged, 0 left out"


def test_items_that_the_source_has_no_more_are_kept_and_told(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path / "set", f"{name}.png", png("red"))
    assert take(tmp_path / "set").remarks == []
    for name in "ab":
        (tmp_path / "set" / f"{name}.png").unlink()
    told = "2 items are not in the source, and kept: a, b; `cbir-ops data remove mine IDS` takes them away"
    report = take(tmp_path / "set")
    assert (report.unchanged, report.remarks) == (3, [told])


def test_the_same_again_leaves_every_file_as_it_was(tmp_path: Path) -> None:
    source = put_part(tmp_path / "set", ("a", "redder", "b"))
    take(source)
    before = (tmp_path / "raw/mine").stat().st_ino
    report = take(source)
    assert (report.added, report.relative) == (0, 0)
    assert (tmp_path / "raw/mine").stat().st_ino == before


def test_a_relative_caption_of_no_valid_unicode_is_named_and_left_out(tmp_path: Path) -> None:
    report = take(put_part(tmp_path / "set", ("a", "\ud83d", "b"), ("b", "darker", "a")))
    assert report.skipped == ["relative caption of a: no valid Unicode"]
    assert changes_of(tmp_path) == [("b", "darker", "a")]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{nope", "Invalid JSON: key must be a string at line 1 column 2"),
        (b"\xff", "Invalid JSON: expected value at line 1 column 1"),
        (b"[]", "Input should be an object"),
        (b'{"id": 5, "file_name": "x"}', "id: Input should be a valid string"),
        (b'{"id": "mine/x"}', "file_name: Field required"),
        (b'{"id": "mine/x", "file_name": "x", "captions": "a red square"}', "captions: Input should be a valid array"),
        (b'{"id": "mine/x", "file_name": "x", "colour": "red"}', "colour: Unexpected keyword argument"),
        (
            b'{"id": "mine/x", "file_name": "../x"}',
            "../x is not in the source's folder, where a copy of it must lie",
        ),
    ],
)
def test_importing_again_repairs_a_malformed_list(tmp_path: Path, line: bytes, fault: str) -> None:
    source = put_part(tmp_path / "set", ("a", "redder", "b"))
    take(source)
    path = tmp_path / "raw/mine/items.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.split(b"\n")[0] + b"\n" + line + b"\n")
    report = take(source)
    assert report.skipped == [f"line 2 of the items.jsonl that was there: malformed, and dropped: {fault}"]
    assert path.read_bytes() == whole


def test_a_malformed_line_that_hides_no_item_is_dropped_too(tmp_path: Path) -> None:
    source = put_part(tmp_path / "set", ("a", "redder", "b"))
    take(source)
    for name in ("items.jsonl", "relative.jsonl"):
        path = tmp_path / "raw/mine" / name
        whole = path.read_bytes()
        path.write_bytes(whole + b"{nope\n")
        report = take(source)
        assert (report.added, report.relative, len(report.skipped)) == (0, 0, 1)
        assert path.read_bytes() == whole


def test_attributes_that_no_column_can_be_named_after_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    put_part(folder, ("a", "redder", "b"))
    row = {"file_name": "a.png", "source": "camera", "_rowid": 3, "size.cm": 4, "price": 5}
    (folder / "metadata.jsonl").write_text(json.dumps(row))
    report = take(folder)
    assert [text.split(":")[0] for text in report.remarks] == ["attribute 'source'", "attribute '_rowid'"]


def lose(picture: Path) -> None:
    picture.unlink()


def truncate(picture: Path) -> None:
    picture.write_bytes(picture.read_bytes()[:-1])


def flip(picture: Path) -> None:
    data = picture.read_bytes()
    picture.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("harm", [lose, truncate, flip])
def test_importing_again_puts_a_lost_or_damaged_picture_back(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    source = put_part(tmp_path / "set", ("a", "redder", "b"))
    take(source)
    pictures = {path: path.read_bytes() for path in (tmp_path / "raw/mine/images").rglob("*.png")}
    first = min(pictures)
    harm(first)
    report = take(source)
    assert (report.added, report.unchanged, report.restored) == (0, 2, 1)
    assert report.summary.endswith("; 1 lost or damaged pictures put back")
    assert {path: path.read_bytes() for path in pictures} == pictures
    assert take(source).restored == 0


def test_a_relative_caption_that_leads_to_its_own_picture_is_named_and_left_out(tmp_path: Path) -> None:
    report = take(put_part(tmp_path / "set", ("a", "redder", "b"), ("a", "the same", "a")))
    assert (report.relative, report.skipped) == (1, ["relative caption of a: it leads to the same picture"])


def test_a_column_called_file_is_told_and_gives_way_to_the_files_name(tmp_path: Path) -> None:
    put_part(tmp_path / "set", ("a", "redder", "b"))
    rows = [{"file_name": f"{name}.png", "file": "mine"} for name in "ab"]
    (tmp_path / "set/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = take(tmp_path / "set")
    assert report.remarks == ["attribute 'file': not imported, for the file's name is called so; rename the column"]
    assert {row["attributes"]["file"] for row in read_jsonl(tmp_path / "raw/mine/items.jsonl")} == {"a.png", "b.png"}


def test_an_attribute_of_several_types_is_told_with_the_rarest_ones_place(tmp_path: Path) -> None:
    put_part(tmp_path / "set", ("a", "redder", "b"), ("b", "redder", "c"))
    prices = {"a": 3, "b": "cheap", "c": 2.5}
    rows = [{"file_name": f"{name}.png", "price": price, "sold": True} for name, price in prices.items()]
    (tmp_path / "set/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = "attribute 'price': text in 1 (b.png), numbers in 2; of several types, it cannot be searched by"
    assert take(tmp_path / "set").remarks == [told]


def test_an_id_that_means_another_picture_from_now_on_is_told(tmp_path: Path) -> None:
    put(tmp_path / "set", "a.png", png("red"))
    take(tmp_path / "set")
    put(tmp_path / "set", "a.jpg", png("blue"))
    told = "mine/a: was a.png and is a.jpg from now on; name items by an id in metadata to keep them"
    assert take(tmp_path / "set").remarks == [told]


def test_an_attribute_of_lists_is_told_with_its_place(tmp_path: Path) -> None:
    put_part(tmp_path / "set", ("a", "redder", "b"))
    rows = [{"file_name": f"{name}.png", "tags": [name], "size": 3} for name in "ab"]
    (tmp_path / "set/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = "attribute 'tags': lists or objects in 2 (a.png); it cannot be searched by"
    assert take(tmp_path / "set").remarks == [told]


def test_a_number_that_json_does_not_have_is_null_and_infinities_are_told(tmp_path: Path) -> None:
    put_part(tmp_path / "set", ("a", "redder", "b"))
    put(
        tmp_path / "set",
        "metadata.jsonl",
        b"""
        {"file_name": "a.png", "id": NaN, "caption": NaN, "label": NaN, "price": NaN, "size": 1e999, "of": {"x": [NaN]}}
        {"file_name": "b.png", "price": 5, "size": -Infinity, "NaN": "Infinity"}""",
    )
    report = take(tmp_path / "set")
    rows = {row["id"]: row for row in read_jsonl(tmp_path / "raw/mine/items.jsonl")}
    assert (rows["mine/a"]["captions"], rows["mine/a"]["labels"]) == ([], [])
    assert rows["mine/a"]["attributes"] == {"size": None, "of": {"x": [None]}, "file": "a.png"}
    assert rows["mine/b"]["attributes"] == {"price": 5, "size": None, "NaN": "Infinity", "file": "b.png"}
    told = "attribute 'size': infinite in 2 (a.png, ...), which JSON has no number for; null from now on"
    assert told in report.remarks


def test_infinities_of_a_csv_are_null_too(tmp_path: Path) -> None:
    put_part(tmp_path / "set", ("a", "redder", "b"))
    put(tmp_path / "set", "metadata.csv", b"file_name,price\na.png,inf\nb.png,2.5\n")
    assert take(tmp_path / "set").remarks == [
        "attribute 'price': infinite in 1 (a.png), which JSON has no number for; null from now on"
    ]
    rows = list(read_jsonl(tmp_path / "raw/mine/items.jsonl"))
    assert [row["attributes"]["price"] for row in rows] == [None, 2.5]


def test_numbers_that_json_does_not_have_and_an_earlier_import_left_are_null(tmp_path: Path) -> None:
    source = put_part(tmp_path / "set", ("a", "redder", "b"))
    take(source)
    with (tmp_path / "raw/mine/items.jsonl").open("a") as file:
        file.write('{"id": "mine/x", "file_name": "x.png", "attributes": {"price": NaN}}\n')
    take(source)
    rows = {row["id"]: row for row in read_jsonl(tmp_path / "raw/mine/items.jsonl")}
    assert rows["mine/x"]["attributes"] == {"price": None}


def test_rows_that_were_written_by_hand_need_no_attributes(tmp_path: Path) -> None:
    source = put_part(tmp_path / "set", ("a", "redder", "b"))
    take(source)
    with (tmp_path / "raw/mine/items.jsonl").open("a") as file:
        file.write(json.dumps({"id": "mine/x", "file_name": "images/x.png"}) + "\n")
    report = take(source)
    assert (report.added, report.unchanged, report.skipped) == (0, 3, [])


def files_of(raw: Path) -> list[str]:
    return sorted(path.relative_to(raw / "mine").as_posix() for path in (raw / "mine/images").rglob("*"))


def test_of_a_picture_that_changed_the_old_file_goes(tmp_path: Path) -> None:
    put(tmp_path / "set", "a.png", png("red"))
    put(tmp_path / "set", "b.png", png("green"))
    take(tmp_path / "set")
    put(tmp_path / "set", "a.png", png("blue"))
    report = take(tmp_path / "set")
    assert (report.added, report.changed, report.unchanged, report.deleted) == (0, 1, 1, 1)
    assert report.summary.endswith("; 1 files deleted that no item has")
    named = {row["file_name"] for row in read_jsonl(tmp_path / "raw/mine/items.jsonl")}
    assert set(files_of(tmp_path / "raw")) == named | {name.rpartition("/")[0] for name in named}
    assert {(tmp_path / "raw/mine" / name).read_bytes() for name in named} == {png("blue"), png("green")}


def test_a_picture_that_another_item_has_too_stays_when_one_changes(tmp_path: Path) -> None:
    put(tmp_path / "set", "a.png", png("red"))
    put(tmp_path / "set", "b.png", png("red"))
    take(tmp_path / "set")
    put(tmp_path / "set", "a.png", png("blue"))
    assert take(tmp_path / "set").deleted == 0
    assert all(
        (tmp_path / "raw/mine" / row["file_name"]).is_file() for row in read_jsonl(tmp_path / "raw/mine/items.jsonl")
    )


def test_what_an_earlier_version_left_goes_with_an_import_that_adds_nothing(tmp_path: Path) -> None:
    put(tmp_path / "set", "a.png", png("red"))
    take(tmp_path / "set")
    before = files_of(tmp_path / "raw")
    put(tmp_path / "raw/mine", "images/no/left.png")
    report = take(tmp_path / "set")
    assert (report.added, report.deleted) == (0, 1)
    assert files_of(tmp_path / "raw") == before


def test_files_that_were_named_by_hand_stay_however_the_name_leads_to_them(tmp_path: Path) -> None:
    put(tmp_path / "set", "a.png", png("red"))
    take(tmp_path / "set")
    mine = tmp_path / "raw/mine"
    for name in ("images/hand/1.png", "images/hand/2.png", "images/3.png", "outside.png"):
        put(mine, name, png("blue") + name.encode())
    (mine / "linked.png").symlink_to("images/3.png")
    names = ["images/./hand//1.png", "images/hand/2.png", "linked.png"]
    with (mine / "items.jsonl").open("a") as file:
        file.writelines(json.dumps({"id": f"mine/{name}", "file_name": name}) + "\n" for name in names)
    assert take(tmp_path / "set").deleted == 0
    assert {"images/hand/1.png", "images/hand/2.png", "images/3.png"} <= set(files_of(tmp_path / "raw"))
    assert (mine / "outside.png").exists()


def test_the_picture_of_a_line_that_was_dropped_stays_until_the_next_import(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        put(tmp_path / name, f"{name}.png", png(colour))
        take(tmp_path / name)
    path = tmp_path / "raw/mine/items.jsonl"
    path.write_text(path.read_text().replace('"mine/a"', "nope"))
    told = [(report.deleted, len(report.skipped)) for report in (take(tmp_path / "b"), take(tmp_path / "b"))]
    assert told == [(0, 1), (1, 0)]
