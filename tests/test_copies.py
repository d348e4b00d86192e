"""A catalogue of pictures alone: changed copies teach what does not matter, and ask for the pictures they are of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import SHAPES, cbir, draw, make_workspace, set_param
from PIL import Image
from small_fusions import CONFIG

from cbir.copies import change_pictures, is_bare
from cbir.encoder import Encoder
from cbir.fusing import build_fusion
from cbir.images import decode_png, encode_png
from cbir.projections import whiten_changes
from cbir.start import pair_mates

SHADES = [(230, 40, 40), (40, 200, 60), (50, 80, 230), (240, 220, 60), (160, 60, 200), (60, 200, 210)]


def scene(seed: int) -> Image.Image:
    """Three squares on noise, each somewhere and of some colour."""
    rng = np.random.default_rng(seed)
    pixels = np.asarray(draw(SHADES[seed % len(SHADES)], seed=seed)).copy()
    for _ in range(2):
        x, y = rng.integers(0, 70, 2)
        pixels[y : y + 24, x : x + 24] = SHADES[int(rng.integers(len(SHADES)))]
    return Image.fromarray(pixels)


def items(*, captions: list[list[str] | None], labels: list[list[str]]) -> pa.Table:
    texts = pa.list_(pa.string())
    return pa.table({"captions": pa.array(captions, texts), "labels": pa.array(labels, texts)})


@pytest.mark.parametrize(
    ("captions", "labels", "bare"),
    [
        ([[], None], [[], []], True),
        ([], [], True),
        ([["a cat"], []], [[], []], False),
        ([[], []], [[], ["cats"]], False),
    ],
)
def test_a_catalogue_is_bare_where_no_item_has_words_or_a_label(
    captions: list[list[str] | None], labels: list[list[str]], bare: bool
) -> None:
    assert is_bare(items(captions=captions, labels=labels)) is bare


def test_a_copy_is_changed_and_the_same_again_whatever_it_is_made_with() -> None:
    pictures = [encode_png(scene(seed)) for seed in range(3)]
    copies = change_pictures(pictures, seed=0)
    again = change_pictures(pictures[::-1], seed=0)
    assert copies["image"].to_pylist() == again["image"].to_pylist()[::-1]
    assert copies["image"].to_pylist() != change_pictures(pictures, seed=1)["image"].to_pylist()
    assert len(set(copies["sha256"].to_pylist())) == 3
    for picture, copy in zip(pictures, copies["image"].to_pylist(), strict=True):
        one, other = decode_png(picture), decode_png(copy)
        assert one.size == other.size
        assert np.abs(np.asarray(one, float) - np.asarray(other, float)).mean() > 1


def test_a_projection_starts_blind_to_what_changes_do_and_keeps_what_pictures_differ_in() -> None:
    config = replace(CONFIG, dimensions=12, labels=0, words=0, kept=0, appearance=0)
    fusion = build_fusion(config, SHAPES)
    width = fusion.image.in_features
    generator = torch.Generator().manual_seed(0)
    picture_NE, change_NE = torch.zeros(200, width), torch.zeros(200, width)
    picture_NE[:, :10] = torch.randn(200, 10, generator=generator)
    picture_NE[:, 10:12] = 4 * torch.randn(200, 2, generator=generator)  # pictures differ most in what changes change
    change_NE[:, 10:12] = 4 * torch.randn(200, 2, generator=generator)
    whiten_changes(fusion, picture_NE, copy_CNE=(picture_NE + change_NE)[None], mate_P2=np.empty((0, 2), int))

    def rank_own(one_ND: torch.Tensor, other_ND: torch.Tensor) -> float:
        score_NN = torch.nn.functional.normalize(one_ND, dim=1) @ torch.nn.functional.normalize(other_ND, dim=1).T
        return float((score_NN.argmax(1) == torch.arange(200)).float().mean())

    with torch.no_grad():
        assert rank_own(fusion.image(picture_NE + change_NE), fusion.image(picture_NE)) > 0.9
    assert rank_own(picture_NE + change_NE, picture_NE) < 0.5


def test_every_item_of_a_cluster_is_paired_with_the_next() -> None:
    pairs = pair_mates(np.array([2, 0, 2, 1, 2, 0]))
    assert {tuple(pair) for pair in pairs.tolist()} == {(1, 5), (5, 1), (0, 2), (2, 4), (4, 0)}
    assert pair_mates(np.arange(3)).shape == (0, 2)


@pytest.mark.slow
def test_pictures_alone_are_learned_from_released_and_searched(tmp_path: Path, prefect_server: str) -> None:
    workspace = make_workspace(tmp_path / "workspace")
    set_param(workspace, "gate", protect={"copy.fused.map": 0.02}, improve=["copy.fused.map"], fusion=[])
    set_param(workspace, "gate", floor={"copy.fused.map": 0.5}, leaks=90)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(90):
        scene(seed).save(folder / f"{seed:02d}.png")
    assert cbir(workspace, "data", "import", str(folder), "--name", "pictures").returncode == 0
    done = cbir(workspace, "retrain", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = cbir(workspace, "query", "--image", str(folder / "07.png"), "--json")
    assert json.loads(asked.stdout)[0]["id"] == "pictures/07"
    refused = cbir(workspace, "query", "a red square")
    assert (refused.returncode, "search with --image FILE alone" in refused.stderr) == (2, True), refused.stderr
    assert not Encoder.load(workspace / "data/encoder").reads_words
    metrics = json.loads((workspace / "metrics.json").read_text())
    assert set(metrics) >= {"counts", "copy"}
    fused, frozen = (metrics["copy"][system] for system in ("fused", "image_only"))
    assert fused["queries"] == metrics["counts"]["test_items"]
    assert fused["map"] > frozen["map"]
    history = json.loads((workspace / "data/encoder/history.json").read_text())
    assert [set(row) for row in history] == [{"epoch", "map", "hit@10", "validation"}]
