"""Splits, metadata and captions of a folder are read as their makers mean them, and what is not read is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from raw_files import put

from cbir.errors import SourceError
from cbir.records import read_jsonl
from cbir.sources import ImportReport, import_source
from cbir.sources.splits import find_split_folders, name_split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.mkdir()
    return path


def put_lines(folder: Path, name: str, *rows: dict[str, Any]) -> None:
    put(folder, name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def take(source: Path) -> ImportReport:
    return import_source(str(source), name="mine", raw=source.parent / "raw")


def rows_of(source: Path) -> dict[str, dict[str, Any]]:
    return {row["id"].removeprefix("mine/"): row for row in read_jsonl(source.parent / "raw/mine/items.jsonl")}


def splits_of(source: Path) -> dict[str, str | None]:
    return {id_: row["split"] for id_, row in rows_of(source).items()}


def test_metadata_in_each_split_folder_gives_captions_and_the_split(folder: Path) -> None:
    for split in ("train", "test"):
        put(folder, f"{split}/1.png")
        put_lines(folder, f"{split}/metadata.jsonl", {"file_name": "1.png", "text": f"of {split}"})
    assert take(folder).skipped == []
    rows = rows_of(folder)
    assert splits_of(folder) == {"train/1": "train", "test/1": "test"}
    assert rows["train/1"]["captions"] == ["of train"]
    assert all(row["labels"] == [] for row in rows.values())
    assert rows["test/1"]["attributes"] == {"file": "test/1.png"}


def test_a_split_folder_without_metadata_is_read_by_its_pictures(folder: Path) -> None:
    put(folder, "train/1.png")
    put_lines(folder, "train/metadata.jsonl", {"file_name": "1.png", "text": "one"})
    put(folder, "test/cat/2.png")
    take(folder)
    assert splits_of(folder) == {"train/1": "train", "test/cat/2": "test"}
    assert rows_of(folder)["test/cat/2"]["labels"] == ["cat"]


def test_metadata_below_metadata_is_named_and_not_read(folder: Path) -> None:
    put(folder, "train/1.png")
    put_lines(folder, "metadata.jsonl", {"file_name": "train/1.png", "text": "above"})
    put_lines(folder, "train/metadata.jsonl", {"file_name": "1.png", "text": "below"})
    report = take(folder)
    assert rows_of(folder)["train/1"]["captions"] == ["above"]
    assert report.remarks == [f"{folder}/train/metadata.jsonl: not read, for a folder above it has metadata"]


def test_a_split_in_a_row_goes_before_that_of_its_folder(folder: Path) -> None:
    for name in ("train/1.png", "train/2.png", "test/3.png"):
        put(folder, name)
    listed = [{"file_name": "train/1.png", "split": "dev"}, {"file_name": "train/2.png"}, {"file_name": "test/3.png"}]
    put_lines(folder, "metadata.jsonl", *listed)
    take(folder)
    assert splits_of(folder) == {"train/1": "validation", "train/2": "train", "test/3": "test"}


def test_top_folders_named_as_splits_are_splits_and_no_labels(folder: Path) -> None:
    for name in ("training/cat/1.png", "Valid/cat/2.png", "testing/dog/brown/3.png", "testing/4.png"):
        put(folder, name)
    put(folder, "testing/4.txt", b"a side-car")
    take(folder)
    found = {id_: (row["split"], row["labels"]) for id_, row in rows_of(folder).items()}
    assert found == {
        "training/cat/1": ("train", ["cat"]),
        "Valid/cat/2": ("validation", ["cat"]),
        "testing/dog/brown/3": ("test", ["dog/brown"]),
        "testing/4": ("test", []),
    }
    assert rows_of(folder)["testing/4"]["captions"] == ["a side-car"]


def test_a_class_beside_folders_named_as_splits_makes_them_all_classes(folder: Path) -> None:
    for name in ("train/1.png", "test/2.png", "boat/3.png"):
        put(folder, name)
    take(folder)
    assert {id_: (row["split"], row["labels"]) for id_, row in rows_of(folder).items()} == {
        "train/1": (None, ["train"]),
        "test/2": (None, ["test"]),
        "boat/3": (None, ["boat"]),
    }


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train/1.png", "val/2.png", "test/3.png"], {"train": "train", "val": "validation", "test": "test"}),
        (["train/1.png", "val/2.png"], {"train": "train", "val": "test"}),
        (["train/1.png", "loose.png"], {"train": None}),
        (["1.png"], {}),
    ],
    ids=["all three", "no test", "training alone", "no folders"],
)
def test_folders_divide_only_where_there_is_something_to_test_on(
    names: list[str], splits: dict[str, str | None]
) -> None:
    assert find_split_folders(names) == splits


@pytest.mark.parametrize(("name", "split"), [(" Dev ", "validation"), ("holdout", None), (3, None)])
def test_names_of_splits_are_understood_as_written_by_hand(name: object, split: str | None) -> None:
    assert name_split(name) == split


def test_an_unknown_split_is_told_and_kept_as_an_attribute(folder: Path) -> None:
    for n in range(3):
        put(folder, f"{n}.png")
    put_lines(
        folder,
        "metadata.jsonl",
        *({"file_name": f"{n}.png", "split": split} for n, split in enumerate(("train", "holdout", "holdout"))),
    )
    report = take(folder)
    assert report.remarks[0].startswith("split 'holdout' of 2 rows: kept as an attribute")
    assert rows_of(folder)["1"]["attributes"]["split"] == "holdout"


@pytest.mark.parametrize("name", ["captions.json", "annotations/list.jsonl", "captions.csv"])
def test_a_list_that_no_layout_knows_is_named(folder: Path, name: str) -> None:
    put(folder, "1.png")
    put(folder, name, b'[{"file": "1.png", "caption": "a cat"}]')
    report = take(folder)
    assert report.added == 1
    assert report.remarks == [f"{name}: not read, for no layout of docs/data.md is written so"]


def test_of_many_unread_lists_five_are_named(folder: Path) -> None:
    for n in range(8):
        put(folder, f"{n}.png")
        put(folder, f"{n}.json", b"{}")
    assert take(folder).remarks[0].startswith("0.json, 1.json, 2.json, 3.json, 4.json and 3 more: not read")


def test_a_list_beside_coco_that_is_not_coco_is_named(folder: Path) -> None:
    put(folder, "1.png")
    put(folder, "coco.json", json.dumps({"images": [{"id": 1, "file_name": "1.png"}]}).encode())
    put(folder, "more.json", b'{"1.png": "a cat"}')
    assert [text.split(":")[0] for text in take(folder).remarks] == ["more.json"]


def test_what_is_hidden_foreign_or_linked_is_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    for name in ("a.png", "._a.png", "__MACOSX/a.png", ".thumbnails/a.png", "b.heic", ".DS_Store"):
        put(folder, name)
    (folder / "cats").symlink_to(tmp_path)
    report = take(folder)
    assert report.added == 1
    assert report.skipped == ["b.heic: convert it to PNG or JPEG"]
    assert report.summary == f"{report.name}: 1 added, 0 unchanged, 1 left out"
    assert any("cats: a link to a folder is not followed" in line for line in report.remarks)
    hidden = next(line for line in report.remarks if line.endswith("hidden, and not looked at"))
    assert {"._a.png", "__MACOSX", ".thumbnails"} == set(hidden.partition(":")[0].split(", "))


def test_a_side_car_that_cannot_be_read_costs_the_picture_its_caption_alone(folder: Path) -> None:
    put(folder, "1.png")
    (folder / "1.txt").mkdir()
    report = take(folder)
    assert (report.added, report.skipped) == (1, [])
    assert report.remarks == [f"{folder / '1.txt'}: is not there, or is no plain file"]


def test_a_category_that_coco_does_not_list_is_named(folder: Path) -> None:
    put(folder, "1.png")
    document = {
        "images": [{"id": 7, "file_name": "1.png"}],
        "annotations": [{"image_id": 7, "category_id": 2}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (folder / "instances.json").write_text(json.dumps(document))
    with pytest.raises(SourceError, match="annotation of image 7 has category 2, which the list categories lacks"):
        take(folder)


def test_a_caption_of_coco_that_is_null_is_none(folder: Path) -> None:
    put(folder, "1.png")
    captions = [{"image_id": 1, "caption": None}, {"image_id": 1, "caption": "a cat"}]
    document = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": captions}
    put(folder, "coco.json", json.dumps(document).encode())
    take(folder)
    assert rows_of(folder)["1"]["captions"] == ["a cat"]


def test_a_null_among_labels_is_none(folder: Path) -> None:
    put(folder, "1.png")
    put_lines(folder, "metadata.jsonl", {"file_name": "1.png", "labels": ["a", None]})
    take(folder)
    assert rows_of(folder)["1"]["labels"] == ["a"]


LAYOUTS: dict[str, dict[str, Any]] = {
    "metadata.jsonl": {"file_name": "bad.png"},
    "coco.json": {"images": [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(("good", "bad"))]},
    "captions/cap.rc2.train.json": [{"reference": "good", "target_hard": "bad", "caption": "worse"}],
    "nothing.txt": {},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_picture_that_may_not_be_read_is_named_and_left_out(
    folder: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, "good.png")
    put(folder, "bad.png")
    good = json.dumps({"file_name": "good.png"}) + "\n" if layout == "metadata.jsonl" else ""
    put(folder, layout, (good + json.dumps(LAYOUTS[layout])).encode())
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "bad.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    report = take(folder)
    assert report.added == 1
    assert report.skipped == ["bad.png: the file cannot be read: Permission denied"]


def test_a_link_to_nothing_is_named_and_left_out(folder: Path) -> None:
    put(folder, "good.png")
    (folder / "bad.png").symlink_to("gone.png")
    assert take(folder).skipped == ["bad.png: is not there, or is no plain file"]


def test_a_line_separator_inside_a_caption_cuts_neither_metadata_nor_side_cars(folder: Path) -> None:
    put(folder, "a/1.png")
    put_lines(folder, "a/metadata.jsonl", {"file_name": "1.png", "caption": "one\u2028two\x85three"})
    put(folder, "b/2.png")
    put(folder, "b/2.txt", "one\u2028two\nthree".encode())
    take(folder)
    assert [row["captions"] for row in rows_of(folder).values()] == [["one\u2028two\x85three"], ["one\u2028two"]]


def test_an_item_of_no_valid_unicode_is_named_and_left_out(folder: Path) -> None:
    put(folder, "good.png")
    put(folder, "half.png")
    put(folder, "metadata.jsonl", b'{"file_name": "good.png"}\n{"file_name": "half.png", "caption": "\\ud83d"}\n')
    report = take(folder)
    assert list(rows_of(folder)) == ["good"]
    assert report.skipped == ["half.png: its name, its words or an attribute is no valid Unicode"]


def test_a_file_name_that_is_not_utf_8_is_named_in_printable_words(folder: Path) -> None:
    put(folder, "good.png")
    put(folder, os.fsdecode(b"b\xe4r.png"))
    report = take(folder)
    assert report.added == 1
    assert report.skipped == ["b\\udce4r.png: its name, its words or an attribute is no valid Unicode"]
