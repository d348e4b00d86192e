"""Where a fusion's projections start, in closed form.

Shapes: N items, P pairs of them, C copies of each, E evidence, K directions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from cbir.fusion import Evidence, Fusion

WITHIN_RIDGE = 0.1  # of the covariance of what changes do, as a share of its mean variance
MATES_WEIGHT = 0.05  # of what near duplicates and variants differ in, beside what changes do


def align_projections(fusion: Fusion, image_NE: torch.Tensor, text_NE: torch.Tensor) -> None:
    """Start both projections at the directions in which images and texts vary together most.

    The singular vectors of their cross-covariance (partial least squares; Wold 1985). Rows are pairs.
    """
    with torch.no_grad():
        mean_i, mean_t = image_NE.mean(0), text_NE.mean(0)
        u, strength, vh = torch.linalg.svd((image_NE - mean_i).T @ (text_NE - mean_t), full_matrices=False)
        kept = min(len(strength), fusion.image.out_features)
        for linear, mean, direction in ((fusion.image, mean_i, u.T), (fusion.text, mean_t, vh)):
            linear.weight.zero_()
            linear.weight[:kept] = direction[:kept]
            linear.bias.copy_(-linear.weight @ mean)
            if fusion.similarity != "cosine":
                _scale_to_unit(linear, image_NE if linear is fusion.image else text_NE)


def spread_projections(fusion: Fusion, evidence: Evidence, has_image_N: np.ndarray, has_text_N: np.ndarray) -> None:
    """Start both projections at the directions in which their own modality varies most, where nothing pairs them.

    What is alike in the evidence is then alike in the vectors (principal components; Pearson 1901).
    """
    with torch.no_grad():
        for linear, row_NE in (
            (fusion.image, evidence.image_BE[torch.from_numpy(has_image_N)]),
            (fusion.text, evidence.text_BE[torch.from_numpy(has_text_N)]),
        ):
            if len(row_NE) < 2:
                continue
            mean_E = row_NE.mean(0)
            directions = torch.linalg.svd(row_NE - mean_E, full_matrices=False)[2]
            kept = min(len(directions), linear.out_features)
            linear.weight.zero_()
            linear.weight[:kept] = directions[:kept]
            linear.bias.copy_(-linear.weight @ mean_E)
            if fusion.similarity != "cosine":
                _scale_to_unit(linear, row_NE)


def whiten_changes(fusion: Fusion, image_NE: torch.Tensor, *, copy_CNE: torch.Tensor, mate_P2: np.ndarray) -> None:
    """Start the image's projection where pictures differ from one another and not from their own changed copies.

    The principal components of the pictures, whitened by the covariance of what the changes do to them (within-class
    covariance normalisation; Hatch et al. 2006). ``copy_CNE``: C copies of each of the N pictures; ``mate_P2``: rows of
    pictures that are near duplicates or variants, whose differences count a little.
    """
    with torch.no_grad():
        mean_E = image_NE.mean(0)
        directions_KE = torch.linalg.svd(image_NE - mean_E, full_matrices=False)[2][: fusion.image.out_features]
        within_KK = _spread(copy_CNE - image_NE, directions_KE)
        if len(mate_P2):
            one, other = torch.from_numpy(mate_P2).T
            within_KK = within_KK + MATES_WEIGHT * _spread(image_NE[one] - image_NE[other], directions_KE)
        ridge = WITHIN_RIDGE * within_KK.diagonal().mean()
        strength_K, turn_KK = torch.linalg.eigh(within_KK + ridge * torch.eye(len(within_KK)))
        whiten_KK = turn_KK / strength_K.sqrt() @ turn_KK.T
        fusion.image.weight.zero_()
        fusion.image.weight[: len(directions_KE)] = whiten_KK @ directions_KE
        fusion.image.bias.copy_(-fusion.image.weight @ mean_E)
        _scale_to_unit(fusion.image, image_NE)


def _spread(difference_E: torch.Tensor, directions_KE: torch.Tensor) -> torch.Tensor:
    """Second moments (K, K) of differences (..., E) along the directions."""
    seen_PK = (difference_E @ directions_KE.T).flatten(0, -2)
    return seen_PK.T @ seen_PK / len(seen_PK)


def _scale_to_unit(linear: nn.Linear, row_NE: torch.Tensor) -> None:
    """Let the rows' outputs have unit length on average, for nothing after it does."""
    length = linear(row_NE).square().sum(1).mean().sqrt().clamp(min=1e-6)
    linear.weight.div_(length)
    linear.bias.div_(length)
