"""Golden queries are read as TREC writes them, and every mistake in them is named."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import COLOURS, cbir, draw
from PIL import Image

from cbir.errors import GoldenError, ImageError
from cbir.golden import read_golden
from cbir.images import Canvas

ITEMS = ["s/0", "s/1", "s/2"]
RED = {"id": "red", "text": "a red square"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, [RED, {"id": "like", "image": "blue.png"}], "red 0 s/1 2\nred 0 s/2 -1\n\nlike Q0 s/0 1\n")
    draw(COLOURS["blue"], seed=0).save(tmp_path / "blue.png")
    return tmp_path


def write(folder: Path, queries: list[dict[str, Any]], qrels: str) -> None:
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    (folder / "qrels.txt").write_text(qrels)


def test_queries_have_words_or_a_picture_and_grades_below_zero_are_not_relevant(folder: Path) -> None:
    golden = read_golden(folder, ITEMS)
    assert (golden.ids, golden.texts) == (["red", "like"], ["a red square", None])
    assert [image is None for image in golden.images] == [True, False]
    assert golden.grade_QN.tolist() == [[0, 2, 0], [1, 0, 0]]


def test_an_items_id_may_have_spaces(tmp_path: Path) -> None:
    write(tmp_path, [RED], "red 0 s/a red  picture 1\nred  0\ts/0\t2 \n")
    assert read_golden(tmp_path, ["s/a red  picture", "s/0"]).grade_QN.tolist() == [[1, 2]]


def test_pictures_are_fitted_as_the_items_are(folder: Path) -> None:
    Image.new("RGB", (80, 40), "red").save(folder / "blue.png")
    picture = read_golden(folder, ITEMS, canvas=Canvas(size=40, background="black")).images[1]
    assert picture is not None
    assert (picture.size, picture.getpixel((0, 0)), picture.getpixel((20, 20))) == ((40, 40), (0, 0, 0), (255, 0, 0))


def test_a_mark_at_the_start_of_a_file_belongs_to_no_query(folder: Path) -> None:
    for name in ("queries.jsonl", "qrels.txt"):
        (folder / name).write_bytes(codecs.BOM_UTF8 + (folder / name).read_bytes())
    golden = read_golden(folder, ITEMS)
    assert golden.ids == ["red", "like"]
    assert golden.grade_QN.tolist() == [[0, 2, 0], [1, 0, 0]]


def test_words_are_read_without_the_blanks_around_them_and_blanks_alone_are_none(folder: Path) -> None:
    texts = [RED | {"text": " a red square\t"}, {"id": "like", "text": "  ", "image": "blue.png"}]
    write(folder, texts, "red 0 s/1 1\nlike 0 s/0 1\n")
    assert read_golden(folder, ITEMS).texts == ["a red square", None]


def test_a_judgement_may_be_there_twice_where_it_says_the_same(tmp_path: Path) -> None:
    write(tmp_path, [RED], "red 0 s/1 2\nred Q0 s/1 2\nred 0 s/2 0\nred 0 s/2 -1\n")
    assert read_golden(tmp_path, ITEMS).grade_QN.tolist() == [[0, 2, 0]]


def test_no_file_or_an_empty_one_means_no_queries(tmp_path: Path) -> None:
    assert read_golden(tmp_path / "nowhere", ITEMS).ids == []
    write(tmp_path, [], "")
    assert read_golden(tmp_path, ITEMS).ids == []


@pytest.mark.parametrize(
    ("queries", "qrels", "message"),
    [
        ([RED], "red 0 s/9 1\nred 0 s/1 1\n", "lacks: s/9; mend or drop"),
        ([RED], "blue 0 s/1 1\n", "'blue', which queries.jsonl lacks; add it"),
        ([RED], "red 0 s/1 0\n", "nothing relevant for red; add a line"),
        ([RED], "\nred s/1 1\n", "qrels.txt, line 2: 'red s/1 1' is no judgement; write `query 0 item grade`"),
        ([RED], "red 0 s/1 good\n", "is no judgement"),
        (
            [RED],
            "red 0 s/1 1000000\nred 0 s/2 1000001\n",
            "line 2: the grade 1000001 is above 1,000,000; write a smaller",
        ),
        ([RED], f"red 0 s/1 {10**20}\n", f"qrels.txt, line 1: the grade {10**20} is above"),
        (
            [RED],
            "red 0 s/1 1\nred 0 s/1 2\n",
            "line 2 gives s/1 for red the grade 2, after 1 in an earlier line; keep one",
        ),
        ([RED], "red 0 s/1 1\nred 0 s/1 0\n", "line 2 gives s/1 for red the grade 0, after 1"),
        ([RED | {"id": "a red"}], "", "'a red'; qrels.txt can name only one without spaces"),
        ([RED, RED], "red 0 s/1 1\n", "line 2 has the id 'red' again; give every query its own"),
        ([{"id": "idle"}], "", "line 1: idle is no query; give each an id, and text, image or both"),
        ([{"id": "idle", "text": ""}], "", "give each an id, and text, image or both"),
        ([{"id": "idle", "text": " \t"}], "", "line 1: idle is no query; give each an id, and text, image or both"),
        ([RED, RED | {"id": "b", "text": 5}], "", "queries.jsonl, line 2: text: Input should be a valid string; mend"),
        ([RED | {"image": ["a.png"]}], "", "line 1: image: Input should be a valid string"),
        ([RED | {"id": 1}], "", "line 1: id: Input should be a valid string"),
        ([{"text": "red"}], "", "line 1: id: Field required"),
        ([RED | {"txt": "red"}], "", "line 1: txt: Unexpected keyword argument"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(
    tmp_path: Path, queries: list[dict[str, Any]], qrels: str, message: str
) -> None:
    write(tmp_path, queries, qrels)
    with pytest.raises(GoldenError, match=message.replace("(", r"\(")):
        read_golden(tmp_path, ITEMS)


def test_a_line_that_is_not_json_and_a_picture_that_is_missing_are_named(folder: Path) -> None:
    (folder / "blue.png").unlink()
    said = r"queries\.jsonl: the image of the query 'like': .*/blue\.png is not a file; give the path of a picture\."
    with pytest.raises(ImageError, match=said):
        read_golden(folder, ITEMS)
    (folder / "blue.png").write_text("blue")
    with pytest.raises(
        ImageError, match=r"queries\.jsonl: .* 'like': .*/blue\.png: the file is not an image; give a PNG"
    ):
        read_golden(folder, ITEMS)
    (folder / "queries.jsonl").write_text("{'id': 1}\n")
    with pytest.raises(GoldenError, match=r"queries\.jsonl, line 1: Invalid JSON"):
        read_golden(folder, ITEMS)


@pytest.mark.slow
def test_golden_queries_are_scored_over_the_whole_catalogue_and_a_bad_one_stops_retrain(live: Path) -> None:
    reds = "".join(f"red 0 squares/{n:02d} {1 + (n == 0)}\n" for n in range(0, 48, 4))
    write(live / "golden", [RED], reds)
    done = cbir(live, "retrain")
    assert done.returncode == 0, done.stdout + done.stderr
    row = json.loads((live / "metrics.json").read_text())["golden"]["fused"]
    assert row["queries"] == 1
    assert row["hit@1"] == 1.0
    assert row["recall@10"] == pytest.approx(10 / 12)
    write(live / "golden", [RED], "red 0 squares/nothing 1\n")
    wrong = cbir(live, "retrain")
    assert (wrong.returncode, "lacks: squares/nothing" in wrong.stderr, "Traceback" in wrong.stderr) == (2, True, False)


def test_judgements_that_are_no_text_are_named(folder: Path) -> None:
    (folder / "qrels.txt").write_bytes(b"red 0 s/\xff 1\n")
    with pytest.raises(GoldenError, match=r"qrels\.txt is no text in UTF-8"):
        read_golden(folder, ITEMS)
