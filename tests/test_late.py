"""Late fusion is a weighted sum of scores, and the textures that it hears are those of scikit-image and OpenCV."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHAPES, TINY
from skimage.feature import local_binary_pattern

from cbir.late import LateFusion
from cbir.params import TowerParams
from cbir.similarity import Similarity
from cbir.towers.export import export_module
from cbir.towers.pixels import count_patterns, measure_energies
from cbir.towers.shape import ENERGIES, GABOR_ANGLES, GABOR_SCALES, PATTERNS
from cbir.towers.visual import build_visual

DIMENSIONS = 24
SIGNALS = SHAPES.visual.signals


def draw_pixels(*, side: int = 64) -> tuple[torch.Tensor, np.ndarray]:
    """Grey pictures in [-1, 1] with flat grounds, edges and noise, and the same as bytes."""
    rng = np.random.default_rng(0)
    grey = np.full((3, side, side), 200, np.uint8)
    grey[0, 10:40, 5:50] = 30
    grey[1] = rng.integers(0, 256, (side, side))
    grey[2, :, ::4] = 90
    pixels = torch.from_numpy(grey).float()[:, None].expand(-1, 3, -1, -1) / 127.5 - 1
    return pixels, grey


def fuse(shares: dict[str, float], *, similarity: Similarity = "cosine") -> LateFusion:
    return LateFusion(shares=shares, places=SIGNALS, width=DIMENSIONS, dimensions=DIMENSIONS, similarity=similarity)


def invent(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors, and summaries whose signals are off centre."""
    rng = torch.Generator().manual_seed(1)
    vector_ND = F.normalize(torch.randn(rows, DIMENSIONS, generator=rng), dim=1)
    return vector_ND, 3 + torch.randn(rows, SHAPES.visual.summary, generator=rng)


def test_patterns_are_counted_as_scikit_image_counts_them() -> None:
    pixels, grey = draw_pixels()
    for counted, picture in zip(count_patterns(pixels), grey, strict=True):
        found = local_binary_pattern(picture, 8, 1, "uniform").astype(int)
        expected = np.sqrt(np.bincount(found.ravel(), minlength=PATTERNS) / found.size)
        assert counted.numpy() == pytest.approx(expected, abs=2e-3)


def test_energies_are_those_of_opencvs_filters() -> None:
    pixels, grey = draw_pixels()
    for measured, picture in zip(measure_energies(pixels), grey, strict=True):
        small = picture.reshape(32, 2, 32, 2).mean(axis=(1, 3)).astype(np.float32) / 255
        expected = []
        for width, wavelength in GABOR_SCALES:
            side = 4 * int(width) + 1
            kernels = [
                cv2.getGaborKernel((side, side), width, math.pi * n / GABOR_ANGLES, wavelength, 0.5, 0)
                for n in range(GABOR_ANGLES)
            ]
            answers = np.stack(
                [
                    np.abs(cv2.filter2D(small, -1, kernel - kernel.mean(), borderType=cv2.BORDER_REPLICATE))
                    for kernel in kernels
                ]
            )
            expected += [*answers.mean(axis=(1, 2)), *answers.std(axis=(1, 2))]
        assert len(expected) == ENERGIES
        assert measured.numpy() == pytest.approx(np.array(expected), abs=1e-3)


def test_the_score_of_two_pictures_is_the_weighted_sum_of_the_encoders_and_the_signals() -> None:
    vector_ND, image_NS = invent(6)
    late = fuse({"tower": 0.5, "histogram": 0.25})
    late.fit(image_NS)
    fused_NT = late(vector_ND, image_NS, has_image_B=torch.ones(6, dtype=torch.bool))
    expected = vector_ND @ vector_ND.T
    for name, share in (("tower", 0.5), ("histogram", 0.25)):
        signal = image_NS[:, SIGNALS[name]] - image_NS[:, SIGNALS[name]].mean(0)
        expected = expected + share * F.normalize(signal, dim=1) @ F.normalize(signal, dim=1).T
    assert torch.allclose(fused_NT @ fused_NT.T, expected / 1.75, atol=1e-5)


def test_energies_are_compared_by_their_spread_and_no_other_signal() -> None:
    places = {"tower": slice(0, 3), "gabor": slice(3, 7)}
    late = LateFusion(
        shares={"tower": 0.1, "gabor": 0.1}, places=places, width=DIMENSIONS, dimensions=DIMENSIONS, similarity="cosine"
    )
    image_NS = 5 * torch.randn(50, 7, generator=torch.Generator().manual_seed(3))
    late.fit(image_NS)
    assert torch.equal(late.scale_P[:3], torch.ones(3))
    assert torch.allclose(late.scale_P[3:], image_NS[:, 3:].std(0, unbiased=False))


def test_words_find_pictures_in_the_order_in_which_the_encoder_ranks_them() -> None:
    vector_ND, image_NS = invent(8)
    late = fuse({"tower": 0.5})
    late.fit(image_NS)
    pictures = late(vector_ND, image_NS, has_image_B=torch.ones(8, dtype=torch.bool))
    words = late(vector_ND, image_NS, has_image_B=torch.zeros(8, dtype=torch.bool))
    assert torch.allclose(words @ pictures.T, vector_ND @ vector_ND.T / 1.5**0.5, atol=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_vectors_keep_the_encoders_length_and_what_most_differs_in_them(similarity: Similarity) -> None:
    rng = torch.Generator().manual_seed(2)
    few_ND = F.normalize(torch.randn(300, 5, generator=rng) @ torch.randn(5, DIMENSIONS, generator=rng), dim=1)
    image_NS = torch.randn(300, SHAPES.visual.summary, generator=rng)
    late = fuse({"tower": 0.3}, similarity=similarity)
    late.fit(image_NS)
    there = torch.ones(300, dtype=torch.bool)
    whole_NT = late(few_ND, image_NS, has_image_B=there)
    late.order(whole_NT)
    short_ND = late(few_ND, image_NS, has_image_B=there)
    assert short_ND.shape == (300, DIMENSIONS)
    assert torch.allclose(short_ND @ short_ND.T, whole_NT @ whole_NT.T, atol=1e-4)
    assert short_ND.square().sum(0).diff().max() < 1e-3, "the first dimensions say most"


def test_without_a_share_every_comparison_is_the_encoders() -> None:
    vector_ND, image_NS = invent(40)
    late = fuse({"tower": 0.0})
    late.fit(image_NS)
    late.order(late(vector_ND, image_NS, has_image_B=torch.ones(40, dtype=torch.bool)))
    turned = late(vector_ND, image_NS, has_image_B=torch.ones(40, dtype=torch.bool))
    assert torch.allclose(turned @ turned.T, vector_ND @ vector_ND.T, atol=1e-5)


def test_a_textured_tower_puts_its_textures_where_it_says_and_exports_them(tiny: Path, tmp_path: Path) -> None:
    tower = build_visual(TowerParams(visual=f"open_clip/{TINY}", visual_weights=str(tiny)), textured=True)
    shape = tower.measure()
    pixels = torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        _, summary_BS = tower(pixels)
        plain = build_visual(TowerParams(visual=f"open_clip/{TINY}", visual_weights=str(tiny)))(pixels)[1]
        centred = tower._centre(pixels)
        assert torch.equal(summary_BS[:, shape.signals["patterns"]], count_patterns(centred))
        assert torch.equal(summary_BS[:, shape.signals["gabor"]], measure_energies(centred))
    assert torch.equal(summary_BS[:, shape.stages_from :], plain[:, -(shape.summary - shape.stages_from) :])
    export_module(tower, {"pixels": pixels[:2]}, {"pixels": pixels}, tmp_path / "v.onnx", outputs=("t", "s"), axes={})
