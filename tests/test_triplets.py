"""CIRR and FashionIQ are imported from the layouts that their makers publish, written here by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cbir.errors import SourceError
from cbir.records import read_jsonl
from cbir.sources import import_source


def put_picture(folder: Path, name: str, colour: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(buffer.getvalue())


def put_json(folder: Path, name: str, value: Any) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(value))


def put_cirr(folder: Path, *, below: str = "cirr/") -> None:
    entries = {
        "train": ("train-10108-0-img0", "train-10108-1-img0", "show one dog  "),
        "val": ("dev-1053-1-img0", "dev-1053-0-img0", "remove the collar"),
    }
    for split, (reference, target, caption) in entries.items():
        pair = {"pairid": 1, "reference": reference, "target_hard": target, "target_soft": {target: 1.0}}
        pair |= {"caption": caption, "img_set": {"id": 1, "members": [reference, target], "reference_rank": 0}}
        put_json(folder, f"{below}captions/cap.rc2.{split}.json", [pair])
        paths = {name: f"./{name.split('-')[0]}/{name}.png" for name in (reference, target)}
        paths |= {"train-1-0-img0": "./train/34/train-1-0-img0.png"} if split == "train" else {}
        put_json(folder, f"{below}image_splits/split.rc2.{split}.json", paths)
        for path, colour in zip(paths.values(), ("red", "blue", "green"), strict=False):
            put_picture(folder, path, colour)
    hidden = {"pairid": 2, "reference": "test1-147-1-img1", "caption": "add a woman"}
    put_json(folder, f"{below}captions/cap.rc2.test1.json", [hidden])
    put_json(folder, f"{below}image_splits/split.rc2.test1.json", {"test1-147-1-img1": "./test1/test1-147-1-img1.png"})


def put_fashioniq(folder: Path) -> None:
    dress = {"target": "B008BHCT58", "candidate": "B003FGW7MK", "captions": ["is solid black", "has straps."]}
    shirt = {"target": "B003FGW7MK", "candidate": "B00A", "captions": ["is red", "is a shirt"]}
    put_json(folder, "captions/cap.dress.train.json", [dress])
    put_json(folder, "captions/cap.shirt.val.json", [shirt])
    put_json(folder, "image_splits/split.dress.train.json", ["B003FGW7MK", "B008BHCT58", "B00GONE"])
    put_json(folder, "image_splits/split.shirt.val.json", ["B003FGW7MK", "B00A"])
    for name, colour in (("B003FGW7MK", "red"), ("B008BHCT58", "black"), ("B00A", "blue")):
        put_picture(folder, f"images/{name}.png", colour)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return list(read_jsonl(folder.parent / "raw" / "mine" / name))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "set"
    path.mkdir()
    return path


@pytest.mark.parametrize("below", ["cirr/", ""])
def test_cirr_gives_pictures_with_their_split_and_changes_with_both_ends(folder: Path, below: str) -> None:
    put_cirr(folder, below=below)
    report = import_source(str(folder), name="mine", raw=folder.parent / "raw")
    assert (report.added, report.skipped) == (5, [])
    splits = {row["id"]: row["split"] for row in read(folder, "items.jsonl")}
    assert splits == {
        "mine/dev-1053-0-img0": "test",
        "mine/dev-1053-1-img0": "test",
        "mine/train-1-0-img0": "train",
        "mine/train-10108-0-img0": "train",
        "mine/train-10108-1-img0": "train",
    }
    assert read(folder, "relative.jsonl") == [
        {"reference_id": f"mine/{reference}", "caption": caption, "target_id": f"mine/{target}"}
        for reference, caption, target in (
            ("train-10108-0-img0", "show one dog", "train-10108-1-img0"),
            ("dev-1053-1-img0", "remove the collar", "dev-1053-0-img0"),
        )
    ]


def test_fashioniq_joins_both_captions_and_labels_by_kind(folder: Path) -> None:
    put_fashioniq(folder)
    report = import_source(str(folder), name="mine", raw=folder.parent / "raw")
    rows = {row["id"]: (row["labels"], row["split"]) for row in read(folder, "items.jsonl")}
    assert rows == {
        "mine/B003FGW7MK": (["dress", "shirt"], "test"),  # of both splits: never trained on
        "mine/B008BHCT58": (["dress"], "train"),
        "mine/B00A": (["shirt"], "test"),
    }
    captions = [row["caption"] for row in read(folder, "relative.jsonl")]
    assert captions == ["is solid black and has straps", "is red and is a shirt"]
    assert report.skipped == ["B00GONE: named in the captions or splits, but not in the folder"]


def test_captions_that_lack_a_key_name_the_file(folder: Path) -> None:
    put_json(folder, "captions/cap.dress.train.json", [{"candidate": "a", "captions": ["x"]}])
    with pytest.raises(SourceError, match=r"cap\.dress\.train\.json is not of CIRR or FashionIQ: .*'target'"):
        import_source(str(folder), name="mine", raw=folder.parent / "raw")


def test_a_data_set_without_its_pictures_says_so(folder: Path) -> None:
    put_json(folder, "captions/cap.dress.train.json", [{"candidate": "a", "target": "b", "captions": ["x"]}])
    with pytest.raises(SourceError, match=r"None of the pictures .* put them there"):
        import_source(str(folder), name="mine", raw=folder.parent / "raw")


def test_a_path_that_leaves_the_folder_is_not_followed(folder: Path) -> None:
    put_cirr(folder, below="")
    put_picture(folder.parent, "outside.png", "red")
    listed = {"train-10108-0-img0": "../outside.png", "train-10108-1-img0": "./train/train-10108-1-img0.png"}
    put_json(folder, "image_splits/split.rc2.train.json", listed)
    (folder / "train/train-10108-0-img0.png").unlink()
    report = import_source(str(folder), name="mine", raw=folder.parent / "raw")
    assert report.skipped == ["train-10108-0-img0: named in the captions or splits, but not in the folder"]
