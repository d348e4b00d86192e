"""Where the parts of a vector that are solved, not trained, point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHAPES
from small_fusions import CONFIG, blank_features

from cbir.features import keep_modalities
from cbir.fusing import build_fusion, make_tokens
from cbir.fusion import Evidence, Fusion
from cbir.projections import find_directions, whiten_appearance

OUTPUTS = CONFIG.labels + CONFIG.words
ROWS = 200


def invent(fusion: Fusion) -> tuple[Evidence, np.ndarray]:
    """Pairs of variants, which differ most in two features of their pictures, and their rows."""
    rng = torch.Generator().manual_seed(0)
    thing = torch.randn(ROWS // 2, 8, generator=rng).repeat_interleave(2, dim=0)
    raw = torch.zeros(ROWS, fusion.appearance.in_features)
    raw[:, :8] = thing + 0.1 * torch.randn(ROWS, 8, generator=rng)
    raw[:, 8:10] = 3 * torch.randn(ROWS, 2, generator=rng)
    row = torch.randn(ROWS, OUTPUTS, generator=rng)
    evidence = Evidence(
        image_BE=torch.cat([row, raw], dim=1),
        text_BE=torch.randn(ROWS, OUTPUTS, generator=rng),
        image_BL=row[:, : CONFIG.labels],
        text_BL=torch.randn(ROWS, CONFIG.labels, generator=rng),
        both_BL=torch.zeros(ROWS, CONFIG.labels),
    )
    return evidence, np.arange(ROWS).reshape(-1, 2)


def find_mates(vector_ND: torch.Tensor) -> float:
    """Share of rows whose nearest other one is their mate."""
    score_NN = F.normalize(vector_ND, dim=1) @ F.normalize(vector_ND, dim=1).T
    score_NN.fill_diagonal_(-2)
    return float((score_NN.argmax(1) == torch.arange(ROWS) + 1 - 2 * (torch.arange(ROWS) % 2)).float().mean())


def test_the_appearance_part_finds_variants_by_what_they_share_and_not_by_what_they_differ_in() -> None:
    fusion = build_fusion(CONFIG, SHAPES)
    evidence, mates = invent(fusion)
    assert find_mates(evidence.image_BE[:, OUTPUTS:]) < 0.5
    whiten_appearance(fusion, evidence.image_BE, mate_P2=mates)
    assert find_mates(fusion.look(evidence)) > 0.9
    assert torch.allclose(fusion.look(evidence).norm(dim=1), torch.ones(ROWS), atol=1e-5)


def test_without_variants_what_pictures_vary_in_most_counts_no_more_than_the_rest() -> None:
    fusion = build_fusion(CONFIG, SHAPES)
    evidence, _ = invent(fusion)
    whiten_appearance(fusion, evidence.image_BE, mate_P2=np.empty((0, 2), int))
    assert find_mates(fusion.look(evidence)) > find_mates(evidence.image_BE[:, OUTPUTS:]) + 0.3


def test_words_rank_pictures_as_if_pictures_had_no_appearance() -> None:
    scores, rows = [], blank_features(ROWS)
    for shares in ((0.0, 0.0), (0.7, 0.4)):
        torch.manual_seed(0)
        fusion = build_fusion(replace(CONFIG, appearance_shares=shares), SHAPES)
        evidence, mates = invent(fusion)
        whiten_appearance(fusion, evidence.image_BE, mate_P2=mates)
        instance_BD = F.normalize(torch.randn(ROWS, fusion.instance_width), dim=1)
        words, pictures = (
            fusion.compose(
                instance_BD, evidence, tokens=make_tokens(keep_modalities(rows, image=image, text=not image))
            )
            for image in (False, True)
        )
        scores.append(words @ pictures.T)
    plain, looked = scores
    length = (1 + CONFIG.label_shares[0] ** 2) ** 0.5
    assert torch.allclose(looked, plain * length / (length**2 + 0.7**2) ** 0.5, atol=1e-5)


@pytest.mark.parametrize("rows", [40, 6])
def test_directions_are_those_of_the_singular_value_decomposition(rows: int) -> None:
    rows_NF = np.random.default_rng(0).normal(size=(rows, 9)) * np.arange(1, 10)
    directions_KF, strength_K = find_directions(rows_NF, most=4)
    _, strength, directions = np.linalg.svd(rows_NF, full_matrices=False)
    np.testing.assert_allclose(strength_K, strength[:4])
    np.testing.assert_allclose(np.abs(np.sum(directions_KF * directions[:4], axis=1)), 1)


def test_there_are_as_many_directions_as_rows_vary_in() -> None:
    assert find_directions(np.eye(3, 8), most=5)[0].shape == (3, 8)
    assert find_directions(np.eye(3, 8).repeat(4, axis=0), most=5)[0].shape == (3, 8)
    assert find_directions(np.zeros((3, 8)), most=5)[0].shape == (0, 8)
    assert find_directions(np.zeros((0, 8)), most=5)[0].shape == (0, 8)
