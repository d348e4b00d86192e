"""The baselines are what their names say, whatever modality an item lacks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import SHAPES

from cbir.baselines import pool_towers, score_captions, take_histogram
from cbir.encoder import Features
from cbir.features import keep_modalities
from cbir.towers.shape import GRID_CELLS

ROWS = 4
CAPTIONS = ["a red apple", "green apple tree", "the smiling cat", None]


@pytest.fixture
def features() -> Features:
    rng = np.random.default_rng(0)
    text_BR = rng.normal(size=(ROWS, SHAPES.text.summary)).astype(np.float32)
    return Features(
        image_BS=np.abs(rng.normal(size=(ROWS, SHAPES.visual.summary))).astype(np.float32),
        text_BR=text_BR,
        captions_BR=text_BR,
        grid_BGV=rng.normal(size=(ROWS, GRID_CELLS, SHAPES.visual.width)).astype(np.float32),
        tokens_BTW=rng.normal(size=(ROWS, 5, SHAPES.text.width)).astype(np.float32),
        token_mask_BT=np.arange(5) < np.array([[1], [2], [4], [5]]),
        has_image_B=np.ones(ROWS, bool),
        has_text_B=np.ones(ROWS, bool),
    )


def test_the_plain_sum_is_the_sum_of_the_two_cosines(features: Features) -> None:
    image = features.image_BS[:, : SHAPES.visual.blocks[0][0]]
    text = features.text_BR[:, : SHAPES.text.blocks[0][0]]
    expected = sum(
        np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in ((image[1], image[3]), (text[1], text[3]))
    )
    pooled = pool_towers(features, SHAPES)
    assert pooled["sum"][1] @ pooled["sum"][3] == pytest.approx(expected, abs=1e-5)


def test_a_missing_modality_adds_nothing(features: Features) -> None:
    pooled = pool_towers(keep_modalities(features, image=True, text=False), SHAPES)
    assert not pooled["text_only"].any()
    assert np.allclose(pooled["sum"][:, : SHAPES.visual.width], pooled["image_only"])
    assert not take_histogram(keep_modalities(features, image=False, text=True)).any()


def test_captions_are_scored_as_the_formula_of_bm25_says() -> None:
    documents = [["red", "apple"], ["green", "apple", "tree"], ["smiling", "cat"]]
    score = score_captions(CAPTIONS)(CAPTIONS)
    average = sum(map(len, documents)) / 4  # the item without words counts as a document of no length
    for n, words in enumerate(documents):
        expected = 0.0
        for word in documents[0]:
            frequency = sum(word in other for other in documents)
            idf = math.log(1 + (4 - frequency + 0.5) / (frequency + 0.5))
            count = words.count(word)
            expected += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(words) / average))
        assert score[0, n] == pytest.approx(expected, rel=1e-4)
    assert not score[3].any()
    assert not score[:, 3].any()


def test_a_catalogue_without_captions_has_only_zeros() -> None:
    assert not score_captions([None, None])(["red", None]).any()
