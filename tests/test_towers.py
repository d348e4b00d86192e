"""The colour histogram counts colours, and a caption that is not the first counts as much."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors import safe_open

import cbir.features as features_module
from cbir.features import load_features
from cbir.records import read_items, read_table
from cbir.towers.run import Towers
from cbir.towers.shape import COLOUR_LEVELS
from cbir.towers.visual import count_colours


def paint(*colours: tuple[float, float, float]) -> torch.Tensor:
    """A picture (1, 3, 8, 8) with a band of each colour."""
    return torch.tensor(colours).T[None, :, :, None].repeat_interleave(8 // len(colours), 2).expand(-1, -1, -1, 8)


def bin_of(red: int, green: int, blue: int) -> int:
    return (red * COLOUR_LEVELS + green) * COLOUR_LEVELS + blue


def test_a_colour_of_the_grid_is_one_bin_and_a_band_of_half_the_picture_half_of_it() -> None:
    black, white, red = (-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (1.0, -1.0, -1.0)
    last = COLOUR_LEVELS - 1
    one, two = count_colours(paint(red))[0], count_colours(paint(black, white))[0]
    assert one.argmax() == bin_of(last, 0, 0)
    assert one.max() == pytest.approx(1)
    assert two[[bin_of(0, 0, 0), bin_of(last, last, last)]].tolist() == pytest.approx([0.5**0.5] * 2)


def test_a_colour_between_two_of_the_grid_is_shared_by_both() -> None:
    between = -1 + 1 / (COLOUR_LEVELS - 1)  # half a step above the lowest level
    shared = count_colours(paint((between, -1.0, -1.0)))[0]
    assert shared[[bin_of(0, 0, 0), bin_of(1, 0, 0)]].tolist() == pytest.approx([0.5**0.5] * 2, abs=1e-3)


def test_every_histogram_has_unit_length() -> None:
    counted = count_colours(torch.rand(3, 3, 16, 16) * 2 - 1)
    assert counted.shape == (3, COLOUR_LEVELS**3)
    assert torch.allclose(counted.square().sum(1), torch.ones(3), atol=1e-5)


@pytest.mark.slow
def test_all_captions_of_an_item_count_and_the_first_is_its_text(released: Path, tmp_path: Path) -> None:
    items = read_items(released / "data" / "ingested", columns=["image", "sha256"]).slice(0, 3)
    captions = [["a red apple", "some fruit"], ["a car"], []]
    items = items.append_column("captions", pa.array(captions, pa.list_(pa.string())))
    encoder = released / "data" / "encoder"
    features = load_features(items, towers_folder=encoder, cache=tmp_path)
    read = Towers(encoder).read
    apple, fruit, car = (read([text])[2][0] for text in ("a red apple", "some fruit", "a car"))
    assert np.allclose(features.text_BR[:2], [apple, car], atol=2e-2)
    assert np.allclose(features.captions_BR[:2], [(apple + fruit) / 2, car], atol=2e-2)
    assert features.has_text_B.tolist() == [True, True, False]


@pytest.mark.slow
def test_an_item_is_computed_once_and_the_same_to_the_last_bit_whatever_it_was_computed_with(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = read_items(released / "data" / "ingested", columns=["id", "image", "sha256", "captions"]).slice(0, 12)
    longer = pa.array([["a square and, in many more words than others, number", "x"]], items["captions"].type)
    odd = items.slice(5, 1).set_column(items.schema.get_field_index("captions"), "captions", longer)
    encoder, rows = released / "data" / "encoder", [7, 3, 3, 11, 0]
    counted: list[int] = []
    compute = features_module._compute_items
    monkeypatch.setattr(
        features_module,
        "_compute_items",
        lambda rows, **towers: (counted.append(len(rows)), compute(rows, **towers))[1],
    )
    whole = load_features(pa.concat_tables([items, odd]), towers_folder=encoder, cache=tmp_path / "whole")
    part = load_features(items.take(rows), towers_folder=encoder, cache=tmp_path / "parts")
    grown = load_features(pa.concat_tables([odd, items]), towers_folder=encoder, cache=tmp_path / "parts", block_rows=4)
    again = load_features(pa.concat_tables([items, odd]), towers_folder=encoder, cache=tmp_path / "parts")
    assert counted[:2] == [13, 4]
    assert sum(counted[2:]) == 9
    back = [*range(1, 13), 0]
    for name in vars(whole):
        assert np.array_equal(getattr(whole, name), getattr(grown, name)[back]), name
        assert np.array_equal(getattr(whole, name), getattr(again, name)), name
        tokens = part.tokens_BTW.shape[1] if name.startswith("token") else None
        assert np.array_equal(
            getattr(whole, name)[rows][:, :tokens] if tokens else getattr(whole, name)[rows], getattr(part, name)
        ), name


@pytest.mark.slow
def test_the_released_encoder_has_learned_from_validation_items_too_and_from_no_test_item(released: Path) -> None:
    split = read_table(released / "data" / "split" / "split.parquet", made_by="split")["split"].to_pylist()
    with safe_open(released / "data" / "encoder" / "fusion.safetensors", framework="np") as weights:
        landmarks = weights.get_slice("image_head.landmark_MC").get_shape()[0]
    assert landmarks == split.count("train") + split.count("validation") < len(split)
