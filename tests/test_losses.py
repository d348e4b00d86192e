"""Losses against loops written by hand, and what every loss that params.yaml can name must do."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cbir.errors import ParamsError
from cbir.losses import SIGLIP_BIAS, info_nce, proxy_loss, sigmoid_loss
from cbir.metric_losses import make_pair_loss
from cbir.params import LossName
from cbir.similarity import Similarity, compare_vectors

TEMPERATURE = 0.1
ROWS = 6
CODES = torch.arange(ROWS)


def draw_pairs(noise: float, *, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys that are alike, but for noise."""
    rng = torch.Generator().manual_seed(0)
    query = F.normalize(torch.randn(rows, 8, generator=rng), dim=1)
    return query, F.normalize(query + noise * torch.randn(rows, 8, generator=rng), dim=1)


def cross_entropy(scores: list[float], answer: int) -> float:
    return math.log(sum(math.exp(score) for score in scores)) - scores[answer]


def test_info_nce_is_the_mean_of_two_cross_entropies_and_leaves_twins_out() -> None:
    query, key = draw_pairs(1.0, rows=3)
    codes = [0, 1, 0]
    score = [[float(q @ k) / TEMPERATURE for k in key] for q in query]
    expected = 0.0
    for n in range(3):
        kept = [m for m in range(3) if m == n or codes[m] != codes[n]]
        expected += cross_entropy([score[n][m] for m in kept], kept.index(n)) / 6
        expected += cross_entropy([score[m][n] for m in kept], kept.index(n)) / 6
    got = info_nce(query, key, code_B=torch.tensor(codes), temperature=TEMPERATURE)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_the_sigmoid_loss_asks_about_every_pair_but_twins() -> None:
    query, key = draw_pairs(1.0, rows=3)
    codes = [0, 1, 0]
    expected = 0.0
    for n in range(3):
        for m in range(3):
            if n == m or codes[n] != codes[m]:
                logit = float(query[n] @ key[m]) / TEMPERATURE + SIGLIP_BIAS
                expected += math.log1p(math.exp(-logit if n == m else logit)) / 3
    got = sigmoid_loss(query, key, code_B=torch.tensor(codes), temperature=TEMPERATURE)
    assert float(got) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("name", get_args(LossName))
def test_a_step_against_the_gradient_brings_queries_nearer_to_their_keys(
    name: LossName, similarity: Similarity
) -> None:
    if name in ("contrastive", "multi_similarity") and similarity != "cosine":
        with pytest.raises(ParamsError, match=r"set train\.similarity to cosine"):
            make_pair_loss(name, temperature=TEMPERATURE, similarity=similarity)
        return
    loss = make_pair_loss(name, temperature=TEMPERATURE, similarity=similarity)
    query, key = draw_pairs(1.5)
    query.requires_grad_()
    value = loss(query, key, CODES)
    value.backward()
    assert math.isfinite(float(value.detach()))
    moved = query.detach() - 0.05 * F.normalize(query.grad.flatten(), dim=0).view_as(query)  # type: ignore[union-attr]
    moved = F.normalize(moved, dim=1) if similarity == "cosine" else moved
    if name not in ("triplet_semihard", "multi_similarity"):  # of these other pairs are chosen after the step
        assert float(loss(moved, key, CODES)) < float(value)
    lead = [find_lead(compare_vectors(part, key, similarity)) for part in (query.detach(), moved)]
    assert lead[1] > lead[0]


def find_lead(score_BB: torch.Tensor) -> float:
    """By how much own keys are nearer than others, on average."""
    eye = torch.eye(len(score_BB), dtype=torch.bool)
    return float(score_BB[eye].mean() - score_BB[~eye].mean())


def test_the_hardest_triplets_cost_more_than_the_semihard_ones() -> None:
    query, key = draw_pairs(1.5)
    semihard, hardest = (
        float(make_pair_loss(name, temperature=TEMPERATURE, similarity="cosine")(query, key, CODES))
        for name in ("triplet_semihard", "triplet_hardest")
    )
    assert semihard < hardest


def test_labels_in_common_are_positives_of_the_supervised_loss_alone() -> None:
    query, key = draw_pairs(0.1)
    codes = torch.tensor([0, 0, 1, 1, 2, 2])
    same = query[[0, 0, 2, 2, 4, 4]]
    loss = make_pair_loss("supervised_contrastive", temperature=TEMPERATURE, similarity="cosine")
    assert float(loss(same, same, codes)) < float(loss(query, key, codes))


def test_rows_without_a_label_leave_the_proxy_loss_alone() -> None:
    vector, proxy = draw_pairs(1.0)[0], torch.eye(3, 8)
    label = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]).float()
    some = proxy_loss(vector[:2], proxy, label_BL=label[:2], temperature=0.5)
    assert float(proxy_loss(vector, proxy, label_BL=label, temperature=0.5)) == pytest.approx(float(some))
    assert float(proxy_loss(vector, proxy, label_BL=label * 0, temperature=0.5)) == 0.0


def test_vectors_are_compared_as_the_name_says() -> None:
    query, items = np.array([[1.0, 2.0]]), np.array([[1.0, 2.0], [3.0, 0.0]])
    assert compare_vectors(query, items, "dot").tolist() == [[5.0, 3.0]]
    distances = compare_vectors(query, items, "euclidean")
    assert distances.tolist() == [[pytest.approx(0.0), pytest.approx(-8.0)]]
