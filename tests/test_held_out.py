"""What chooses how long to train: words, labels and relative captions of the validation items."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from cbir import held_out
from cbir.encoder import Features
from cbir.held_out import HeldOut
from cbir.records import RELATIVE_SCHEMA, write_table

PICTURES = np.eye(4, dtype=np.float32) + np.eye(4, k=1, dtype=np.float32) / 2 * np.array([[1], [0], [0], [0]])
WORDS = {"nothing": np.zeros(4), "towards two": np.array([0, 0, 2, 0])}
LABELS = [["a"], ["a"], ["b"], []]
FUSION = SimpleNamespace(similarity="cosine")


@pytest.fixture(autouse=True)
def add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fusion that adds what is seen and what is read."""

    def run(_, features: Features) -> torch.Tensor:
        seen = features.image_BS * features.has_image_B[:, None]
        return torch.from_numpy(seen + features.text_BR * features.has_text_B[:, None])

    monkeypatch.setattr(held_out, "run_fusion", run)


def read(words: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    text = np.stack([WORDS[word] for word in words]).astype(np.float32)
    return text[:, None], np.ones((len(words), 1), bool), text


def hold_out(
    tmp_path: Path,
    pairs: list[tuple[str, str, str]],
    *,
    text: np.ndarray,
    pictures: np.ndarray = PICTURES,
    labels: list[list[str]] = LABELS,
    hashes: str = "abcd",
) -> HeldOut:
    pictures, text = pictures.astype(np.float32), text.astype(np.float32)
    count = len(pictures)
    features = Features(
        image_BS=pictures,
        grid_BGV=pictures[:, None],
        has_image_B=np.ones(count, bool),
        text_BR=text,
        captions_BR=text,
        tokens_BTW=text[:, None],
        token_mask_BT=np.ones((count, 1), bool),
        has_text_B=np.ones(count, bool),
    )
    rows = [dict(zip(RELATIVE_SCHEMA.names, pair, strict=True)) for pair in pairs]
    write_table(tmp_path / "relative.parquet", pa.Table.from_pylist(rows, schema=RELATIVE_SCHEMA))
    ids, captions = [str(n) for n in range(count)], [[f"thing {n}"] for n in range(count)]
    items = pa.table({"id": ids, "labels": labels, "captions": captions, "sha256": list(hashes)})
    return HeldOut(items, features, ingested=tmp_path, towers=SimpleNamespace(read=read))


def test_relative_captions_count_as_much_as_words_and_labels(tmp_path: Path) -> None:
    pairs = [("0", "nothing", "1"), ("0", "towards two", "1"), ("0", "nothing", "elsewhere")]
    found = hold_out(tmp_path, pairs, text=np.eye(4) / 10).check(FUSION)
    assert found["relative"] == pytest.approx((1 + 1 / 2) / 2)  # the picture itself is no answer
    assert (found["hit@10"], found["map"]) == (1.0, 1.0)
    assert found["validation"] == pytest.approx((1 + 1 + 0.75) / 3)


def test_items_without_relative_captions_are_judged_by_words_and_labels(tmp_path: Path) -> None:
    found = hold_out(tmp_path, [("0", "nothing", "elsewhere")], text=np.eye(4) / 10).check(FUSION)
    assert found == {"hit@10": 1.0, "map": 1.0, "validation": 1.0}


def test_what_the_words_say_of_another_lowers_the_labels(tmp_path: Path) -> None:
    found = hold_out(tmp_path, [], text=np.eye(4)[[2, 3, 2, 3]] * 3).check(FUSION)
    assert found["map"] < 1


@pytest.mark.parametrize(("hashes", "share"), [("abcdefghijkl", 11 / 12), ("aacdefghijkl", 1.0)])
def test_words_find_a_picture_that_is_there_twice_by_either(tmp_path: Path, hashes: str, share: float) -> None:
    """The first of twelve finds all others before its own picture; where the second is the same, it is found."""
    text = np.eye(12)
    text[0] = np.linspace(-1, 1, 12)[::-1]
    text[0, 0] = -2
    found = hold_out(tmp_path, [], text=text, pictures=np.eye(12), labels=[["a"]] * 12, hashes=hashes).check(FUSION)
    assert found["hit@10"] == pytest.approx(share)
