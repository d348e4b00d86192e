"""What labels are called teaches words, where captions are missing or few, and never reaches what is searched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import COLOURS, SHAPES, cbir, draw, make_workspace, set_param

from cbir.encoder import Features
from cbir.features import add_words
from cbir.label_names import lend_names, list_names, name_label
from cbir.towers.shape import GRID_CELLS

WIDTH = SHAPES.text.width


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("dog", "dog"),
        ("animals/big_cat", "big cat"),
        ("food-drink/food-vegetable", "food vegetable"),
        ("BigCat", "big cat"),
        ("travel/sky & weather/", "sky weather"),
        ("Früchte/rote Äpfel", "rote äpfel"),
        ("7", "7"),
        ("---", "---"),
    ],
)
def test_a_label_is_called_by_the_words_of_its_last_level(label: str, name: str) -> None:
    assert name_label(label) == name


def test_labels_of_one_name_are_named_once() -> None:
    assert list_names([["a/red", "b/red", "c/blue"], [], None]) == [["blue", "red"], [], []]


def test_only_an_item_without_a_caption_is_lent_the_names_of_its_labels() -> None:
    items = pa.table(
        {
            "id": ["a", "b", "c"],
            "captions": [["a fox"], [], None],
            "labels": [["animal/fox"], ["animal/fox", "colour/red"], []],
        }
    )
    lent = lend_names(items)
    assert lent["captions"].to_pylist() == [["a fox"], ["fox, red"], []]
    assert lent.drop(["captions"]).equals(items.drop(["captions"]))


class Reader:
    """A text tower that reads as many tokens as a text has words, each the number of its letters."""

    def read(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        length = max(len(text.split()) for text in texts)
        counts = np.array([[len(word) for word in text.split()] + [0] * (length - len(text.split())) for text in texts])
        tokens = np.repeat(counts[..., None], WIDTH, axis=2).astype(np.float32)
        return tokens, counts > 0, np.repeat(counts.sum(1)[:, None], 2 * WIDTH, axis=1).astype(np.float32)


def make_features(has_text: list[bool]) -> Features:
    rows = len(has_text)
    text_BR = np.full((rows, SHAPES.text.summary), 1, np.float16) * np.array(has_text)[:, None]
    return Features(
        image_BS=np.zeros((rows, SHAPES.visual.summary), np.float16),
        text_BR=text_BR,
        captions_BR=text_BR,
        grid_BGV=np.zeros((rows, GRID_CELLS, SHAPES.visual.width), np.float16),
        tokens_BTW=np.ones((rows, 1, WIDTH), np.float16) * np.array(has_text)[:, None, None],
        token_mask_BT=np.array(has_text)[:, None],
        has_image_B=np.ones(rows, bool),
        has_text_B=np.array(has_text),
    )


def test_words_are_added_where_there_are_none_and_nowhere_else() -> None:
    features = make_features([True, False, False, False])
    told = add_words(features, Reader(), ["other words", "big cat", None, "fox"])  # type: ignore[arg-type]
    assert told.has_text_B.tolist() == [True, True, False, True]
    assert told.text_BR[:, 0].tolist() == [1, 6, 0, 3]
    assert told.captions_BR[:, 0].tolist() == [1, 6, 0, 3]
    assert told.tokens_BTW[:, :, 0].tolist() == [[1, 0], [3, 3], [0, 0], [3, 0]]
    assert told.token_mask_BT.tolist() == [[True, False], [True, True], [False, False], [True, False]]
    assert features.has_text_B.tolist() == [True, False, False, False], "what is indexed stays as it was"
    assert features.text_BR[:, 0].tolist() == [1, 0, 0, 0]
    add_words(features, Reader(), [None, "cat", None, "fox"])  # type: ignore[arg-type]  # as long as what is there
    assert features.tokens_BTW[:, :, 0].tolist() == [[1], [0], [0], [0]]
    assert features.token_mask_BT.tolist() == [[True], [False], [False], [False]]
    assert add_words(features, Reader(), [None, None, "", None]) is features  # type: ignore[arg-type]


@pytest.mark.slow
def test_folders_of_classes_without_captions_are_searched_with_words(tmp_path: Path, prefect_server: str) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    set_param(workspace, "gate", floor={"label_name.fused.map": 0.5}, protect={"label_name.fused.map": 0.02})
    set_param(workspace, "gate", improve=["label_name.fused.map"])
    for n in range(48):
        name = list(COLOURS)[n % 4]
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True, exist_ok=True)
        draw(COLOURS[name], seed=n).save(folder / f"{n:02d}.png")
    assert cbir(workspace, "data", "import", str(tmp_path / "pictures"), "--name", "squares").returncode == 0
    done = cbir(workspace, "retrain", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("blue", "a yellow thing"):
        asked = cbir(workspace, "query", word, "-k", "5", "--json")
        assert {hit["label"] for hit in json.loads(asked.stdout)} == {next(name for name in COLOURS if name in word)}
    metrics = json.loads((workspace / "metrics.json").read_text())
    assert set(metrics["label_name"]) == {"fused"}, "nothing else can answer words where no item has any"
    assert set(metrics["label"]).isdisjoint({"fused_text", "text_only", "bm25", "sum"})
    assert "text_to_image" not in metrics
