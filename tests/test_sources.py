"""Every layout is found and read as its makers write it; what is malformed gets one clear message."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from raw_files import png, put

from cbir.errors import SourceError
from cbir.records import read_jsonl
from cbir.sources import import_source
from cbir.sources.files import PICTURES
from cbir.sources.openmoji import base_points, read_emojis, read_relative

STAMPS = Path("/usr/share/tuxpaint/stamps")  # Debian's tuxpaint-stamps-default


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.mkdir()
    return path


def imported(source: Path) -> dict[str, dict[str, Any]]:
    import_source(str(source), name="mine", raw=source.parent / "raw")
    return {row["id"]: row for row in read_jsonl(source.parent / "raw" / "mine" / "items.jsonl")}


def put_coco(folder: Path) -> None:
    images = [{"id": 7, "file_name": "7.png"}, {"id": 8, "file_name": "8.png"}]
    captions = [{"image_id": 7, "caption": "a dog"}, {"image_id": 7, "caption": "one dog"}]
    instances = [{"image_id": 7, "category_id": 1}, {"image_id": 7, "category_id": 1}]
    categories = [{"id": 1, "name": "dog", "supercategory": "animal"}]
    put(folder, "annotations/captions_val.json", json.dumps({"images": images, "annotations": captions}).encode())
    put(
        folder,
        "annotations/instances_val.json",
        json.dumps({"images": images, "annotations": instances, "categories": categories}).encode(),
    )


def put_shard(folder: Path, name: str, members: dict[str, bytes]) -> None:
    with tarfile.open(folder / name, "w") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_coco_captions_and_instances_meet_in_one_item(folder: Path) -> None:
    put_coco(folder)
    put(folder, "val2017/7.png", png())
    rows = imported(folder)
    assert list(rows) == ["mine/7"]
    assert rows["mine/7"]["captions"] == ["a dog", "one dog"]
    assert rows["mine/7"]["labels"] == ["animal/dog"]


def test_coco_pictures_that_are_absent_or_there_twice_are_named(folder: Path) -> None:
    put_coco(folder)
    put(folder, "a/7.png", png())
    put(folder, "a/8.png", png())
    put(folder, "b/8.png", png("blue"))
    report = import_source(str(folder), name="mine", raw=folder.parent / "raw")
    assert report.added == 1
    assert [text.split(":")[0] for text in report.skipped] == ["8.png"]


def test_annotations_of_images_that_coco_does_not_list_are_told(folder: Path) -> None:
    captions = [{"image_id": n, "caption": "a cat"} for n in (1, 2, 2, 9)]
    document = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": captions}
    put(folder, "captions.json", json.dumps(document).encode())
    put(folder, "1.png", png())
    report = import_source(str(folder), name="mine", raw=folder.parent / "raw")
    told = "captions.json: annotations of 2 images that its list images lacks: 2, 9; not imported"
    assert (report.added, report.skipped, report.remarks) == (1, [], [told])


def test_coco_without_any_picture_is_refused(folder: Path) -> None:
    put_coco(folder)
    with pytest.raises(SourceError, match="None of the pictures"):
        imported(folder)
    assert not (folder.parent / "raw").exists()


def test_karpathy_json_keeps_its_splits(folder: Path) -> None:
    splits = {"1": "train", "2": "restval", "3": "val", "4": "test"}
    images = [{"filename": f"{n}.png", "split": s, "sentences": [{"raw": f"picture {n}"}]} for n, s in splits.items()]
    put(folder, "dataset.json", json.dumps({"images": images}).encode())
    for n in splits:
        put(folder, f"images/{n}.png", png())
    rows = imported(folder)
    assert [row["split"] for row in rows.values()] == ["train", "train", "validation", "test"]
    assert rows["mine/3"]["captions"] == ["picture 3"]


def test_malformed_annotations_are_refused(folder: Path) -> None:
    put(folder, "a.png", png())
    put(folder, "x.json", b'{"images": [{"id": 1}]}')
    with pytest.raises(SourceError, match="file_name"):
        imported(folder)


def test_shards_of_img2dataset_become_items(folder: Path) -> None:
    about = json.dumps({"caption": "a cat", "url": "u", "status": "success", "error_message": None}).encode()
    put_shard(folder, "00000.tar", {"000.jpg": png(), "000.txt": b"a cat", "000.json": about, "001.txt": b"lost"})
    put_shard(folder, "00001.tar", {"002.png": png("blue"), "002.cls": b"5"})
    report = import_source(str(folder), name="mine", raw=folder.parent / "raw")
    assert (report.added, report.skipped) == (2, ["001: has no picture in 00000.tar"])
    rows = imported(folder)
    assert rows["mine/000"]["captions"] == ["a cat"]
    assert rows["mine/000"]["attributes"]["url"] == "u"
    assert rows["mine/002"]["labels"] == ["5"]


def test_a_shard_holds_the_formats_that_a_folder_may_hold(folder: Path) -> None:
    names = {f"{ending.removeprefix('.')}{ending}": png() for ending in PICTURES}
    put_shard(folder, "0.tar", names)
    assert {row["attributes"]["file"] for row in imported(folder).values()} == set(names)
    assert {"jfif.jfif", "avif.avif"} <= set(names)


def test_nan_in_the_json_of_a_shard_or_in_coco_is_a_missing_value(folder: Path) -> None:
    put_shard(folder, "0.tar", {"a.png": png(), "a.json": b'{"caption": NaN, "price": NaN, "size": 3}'})
    row = imported(folder)["mine/a"]
    assert (row["captions"], row["attributes"]) == ([], {"file": "a.png", "size": 3})
    captions = b'{"images": [{"id": 1, "file_name": "b.png"}], "annotations": [{"image_id": 1, "caption": NaN}]}'
    put(folder, "captions.json", captions)
    put(folder, "b.png", png("blue"))
    assert imported(folder)["mine/b"]["captions"] == []


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a.png": png(), "a.txt": "Bär".encode("latin-1")}, "not UTF-8"),
        ({"a.txt": b"x"}, "No sample"),
        ({"a.png": png(), "a.json": b"{"}, "valid JSON"),
    ],
    ids=["latin-1", "no picture", "bad json"],
)
def test_a_bad_shard_is_refused(folder: Path, members: dict[str, bytes], reason: str) -> None:
    put_shard(folder, "0.tar", members)
    with pytest.raises(SourceError, match=reason):
        imported(folder)


def test_a_truncated_shard_leaves_nothing_behind(folder: Path) -> None:
    put_shard(folder, "0.tar", {"a.png": png(), "b.png": png() + bytes(5000)})
    whole = (folder / "0.tar").read_bytes()
    (folder / "0.tar").write_bytes(whole[:3000])
    with pytest.raises(SourceError, match=r"0\.tar cannot be read"):
        imported(folder)
    assert not (folder.parent / "raw").exists()


def test_a_key_in_two_shards_is_refused(folder: Path) -> None:
    for name in ("0.tar", "1.tar"):
        put_shard(folder, name, {"a.png": png()})
    with pytest.raises(SourceError, match="again"):
        imported(folder)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "no JSON object"),
        ("{x", "line 1: no JSON"),
        ('{"caption": "x"}', "line 1: no file_name, but caption; give it, as a path below"),
        ('{"File_name": "a.png"}', r"line 1: no file_name, but File_name; did you mean File_name\?"),
        ('{"file_name": "../out.png"}', "outside"),
    ],
    ids=["a list", "no json", "no file_name", "a near name", "outside the folder"],
)
def test_malformed_metadata_is_refused(folder: Path, line: str, reason: str) -> None:
    put(folder.parent, "out.png", png())
    put(folder, "metadata.jsonl", line.encode())
    with pytest.raises(SourceError, match=reason):
        imported(folder)


def test_a_csv_keeps_leading_zeros_and_the_word_none(folder: Path) -> None:
    put(folder, "a.png", png())
    put(folder, "metadata.csv", b"file_name,id,caption,price\na.png,007,None,3\n")
    rows = imported(folder)
    assert rows["mine/007"]["captions"] == ["None"]
    assert rows["mine/007"]["attributes"]["price"] == 3


def test_a_side_car_gives_its_first_line_and_folders_give_labels(folder: Path) -> None:
    put(folder, "animals/birds/duck.png", png())
    put(folder, "animals/birds/duck.txt", b"A duck.\nde.utf8=Eine Ente.\n")
    row = imported(folder)["mine/animals/birds/duck"]
    assert (row["captions"], row["labels"]) == (["A duck."], ["animals/birds"])


def test_variants_of_one_base_share_their_code_points() -> None:
    man_farmer_dark, woman_farmer = (0x1F468, 0x1F3FF, 0x200D, 0x1F33E), (0x1F469, 0x200D, 0x1F33E)
    assert base_points(man_farmer_dark) == base_points(woman_farmer) == (0x1F9D1, 0x1F33E)


def test_a_couple_is_one_base_however_it_is_written() -> None:
    women_holding_hands, of_two_tones = (0x1F46D,), (0x1F469, 0x1F3FB, 0x200D, 0x1F91D, 0x200D, 0x1F469, 0x1F3FF)
    assert base_points(women_holding_hands) == base_points(of_two_tones)


def test_every_kind_of_variant_has_a_relative_caption() -> None:
    name = {emoji.id: emoji.names[0] for emoji in read_emojis()}
    found = {(name[pair.reference_id], pair.caption, name[pair.target_id]) for pair in read_relative()}
    assert {
        ("astronaut", "dark skin tone", "astronaut dark skin tone"),
        ("astronaut", "woman", "woman astronaut"),
        ("person running", "man", "man running"),
        ("woman", "red hair", "woman red hair"),
        ("kiss man man", "light skin tone, dark skin tone", "kiss man man light skin tone dark skin tone"),
    } <= found
    assert not any(reference == target for reference, _, target in found)


def test_emojis_have_the_names_and_groups_that_people_know() -> None:
    emojis = {emoji.characters: emoji for emoji in read_emojis()}
    assert emojis["🍎"].names == ("red apple", "apple")
    assert emojis["🇫🇷"].names == ("flag: France",)
    assert (emojis["🍎"].group, emojis["🍎"].subgroup) == ("food-drink", "food-fruit")


@pytest.mark.skipif(not STAMPS.exists(), reason="needs Debian's tuxpaint-stamps-default")
def test_the_tux_paint_photographs_come_with_captions_and_labels(tmp_path: Path) -> None:
    report = import_source(str(STAMPS), name="stamps", raw=tmp_path / "raw")
    rows = list(read_jsonl(tmp_path / "raw" / "stamps" / "items.jsonl"))
    assert report.added == len(rows) > 700
    assert all(row["labels"] for row in rows)
    assert sum(bool(row["captions"]) for row in rows) > 700
    assert not any("utf8=" in caption for row in rows for caption in row["captions"])


def put_coco_twins(folder: Path) -> None:
    images = [{"id": 1, "file_name": "cat.png"}, {"id": 2, "file_name": "cat.jpg"}]
    captions = [{"image_id": 1, "caption": "a cat"}, {"image_id": 2, "caption": "another cat"}]
    put(folder, "captions.json", json.dumps({"images": images, "annotations": captions}).encode())


def put_metadata_twins(folder: Path) -> None:
    rows = [{"file_name": "cat.png", "text": "a cat"}, {"file_name": "cat.jpg", "text": "another cat"}]
    put(folder, "metadata.jsonl", ("\ufeff" + "\n".join(map(json.dumps, rows))).encode())


@pytest.mark.parametrize("layout", [put_coco_twins, put_metadata_twins])
def test_two_pictures_whose_names_differ_by_their_ending_are_two_items(
    folder: Path, layout: Callable[[Path], None]
) -> None:
    put(folder, "cat.png", png())
    put(folder, "cat.jpg", png("blue"))
    layout(folder)
    rows = imported(folder)
    assert {id_: row["captions"] for id_, row in rows.items()} == {
        "mine/cat": ["a cat"],
        "mine/cat.jpg": ["another cat"],
    }


def test_a_picture_that_metadata_names_twice_is_refused_with_what_to_write(folder: Path) -> None:
    put(folder, "cat.png", png())
    put(folder, "metadata.csv", b"file_name,caption\ncat.png,a cat\ncat.png,a tom\n")
    with pytest.raises(SourceError, match=r"row 3: names 'cat\.png' twice; .* as \[.*\] in a column captions"):
        imported(folder)


def test_coco_that_names_no_file_is_refused(folder: Path) -> None:
    put(folder, "captions.json", json.dumps({"images": [{"id": 1, "file_name": ""}], "annotations": []}).encode())
    with pytest.raises(SourceError, match=r"is not COCO or Karpathy JSON: .*file_name ''"):
        imported(folder)
