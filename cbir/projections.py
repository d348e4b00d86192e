"""Where a fusion's projections start, in closed form.

Shapes: N items, P pairs of them, C copies of each, E evidence, F features, K directions.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import nn

from cbir.fusion import Evidence, Fusion
from cbir.kernel import BLOCK

WITHIN_RIDGE = 0.1  # of the covariance that is whitened by, as a share of its mean variance
MATES_WEIGHT = 0.05  # of what near duplicates and variants differ in, beside what changes do
NOTHING = 1e-6  # of the greatest singular value
PRIOR_PAIRS = 30  # of near duplicates or variants, that the covariance of all pictures stands for


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
            directions_KE = _find_directions(row_NE - mean_E, most=linear.out_features)
            _set_linear(linear, directions_KE, mean_E)
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
        directions_KE = _find_directions(image_NE - mean_E, most=fusion.image.out_features)
        place_NK = image_NE @ directions_KE.T
        within_KK = _spread(copy_CNE @ directions_KE.T - place_NK)
        if len(mate_P2):
            within_KK = within_KK + MATES_WEIGHT * _spread(_subtract(place_NK, mate_P2))
        _set_linear(fusion.image, _whiten(within_KK) @ directions_KE, mean_E)
        _scale_to_unit(fusion.image, image_NE)


def whiten_appearance(fusion: Fusion, image_NE: torch.Tensor, *, mate_P2: np.ndarray) -> None:
    """Let the appearance part tell pictures apart and not near duplicates and variants, whose rows ``mate_P2`` pairs.

    As ``whiten_changes``, by what such pairs differ in, and the fewer there are, the more by what all pictures differ
    in.
    """
    with torch.no_grad():
        raw_NF = image_NE[:, -fusion.appearance.in_features :]
        mean_F = raw_NF.mean(0)
        directions_KF = _find_directions(raw_NF - mean_F, most=fusion.appearance.out_features)
        place_NK = (raw_NF - mean_F) @ directions_KF.T
        within_KK = PRIOR_PAIRS * _spread(place_NK)
        if len(mate_P2):
            within_KK = within_KK + len(mate_P2) * _spread(_subtract(place_NK, mate_P2))
        _set_linear(fusion.appearance, _whiten(within_KK) @ directions_KF, mean_F)


def find_directions(row_NF: np.ndarray, *, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The at most ``most`` directions in which rows vary, (K, F), and their singular values (K,), greatest first.

    By the eigenvectors of the smaller Gram matrix, in double precision, which takes a fraction of what a singular value
    decomposition does. A direction in which nothing varies is none.
    """
    tall = row_NF.shape[0] > row_NF.shape[1]
    gram = _multiply(row_NF if tall else row_NF.T)
    kept = min(most, len(gram))
    if not kept:
        return np.zeros((0, row_NF.shape[1])), np.zeros(0)
    square_K, turn_K = scipy.linalg.eigh(gram, subset_by_index=[len(gram) - kept, len(gram) - 1])
    strength_K = np.sqrt(np.maximum(square_K, 0))
    sure_K = strength_K > NOTHING * strength_K.max(initial=0)
    turn_K, strength_K = turn_K[:, sure_K], strength_K[sure_K]
    direction_FK = turn_K if tall else row_NF.T @ turn_K / strength_K
    return direction_FK.T[::-1], strength_K[::-1]


def _multiply(row_NF: np.ndarray) -> np.ndarray:
    """Gram matrix of the columns, (F, F) in double precision, of which no copy of all rows is made."""
    gram_FF = np.zeros((row_NF.shape[1],) * 2)
    for start in range(0, len(row_NF), BLOCK):
        block_BF = row_NF[start : start + BLOCK].astype(np.float64)
        gram_FF += block_BF.T @ block_BF
    return gram_FF


def _find_directions(row_NF: torch.Tensor, *, most: int) -> torch.Tensor:
    return torch.from_numpy(find_directions(row_NF.numpy(), most=most)[0].astype(np.float32))


def _set_linear(linear: nn.Linear, weight_KF: torch.Tensor, mean_F: torch.Tensor) -> None:
    """Let the first outputs be ``weight_KF`` times what differs from the mean, the others zero."""
    linear.weight.zero_()
    linear.weight[: len(weight_KF)] = weight_KF
    linear.bias.copy_(-linear.weight @ mean_F)


def _subtract(row_NK: torch.Tensor, pair_P2: np.ndarray) -> torch.Tensor:
    one, other = torch.from_numpy(pair_P2).T
    return row_NK[one] - row_NK[other]


def _spread(difference_K: torch.Tensor) -> torch.Tensor:
    """Second moments (K, K) of differences (..., K)."""
    seen_PK = difference_K.flatten(0, -2)
    return seen_PK.T @ seen_PK / len(seen_PK)


def _whiten(within_KK: torch.Tensor) -> torch.Tensor:
    """The inverse root of a covariance."""
    ridge = WITHIN_RIDGE * within_KK.diagonal().mean()
    strength_K, turn_KK = torch.linalg.eigh(within_KK + ridge * torch.eye(len(within_KK)))
    return turn_KK / strength_K.sqrt() @ turn_KK.T


def _scale_to_unit(linear: nn.Linear, row_NE: torch.Tensor) -> None:
    """Let the rows' outputs have unit length on average, for nothing after it does."""
    length = linear(row_NE).square().sum(1).mean().sqrt().clamp(min=1e-6)
    linear.weight.div_(length)
    linear.bias.div_(length)
