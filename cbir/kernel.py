"""How labels and words are predicted from tower outputs in closed form, and how the predictions are cross-fitted.

On a few thousand items gradient training memorises its items within an epoch; ridge regression over a Gaussian kernel
does not (Saunders et al. 1998, Ridge regression learning algorithm in dual variables; for more items than landmarks,
the subset of regressors of Williams & Seeger 2001). What is trained on top of it learns from predictions for items
that the regression did not see (Wolpert 1992, Stacked generalization), so that it learns how far to trust them.

Shapes: N items, B batch, F features in blocks, C of blocks that are compared, M landmarks, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import nn

SHARPNESS = 1.6  # of the kernel: exp(-SHARPNESS * (1 - cosine))
RIDGE = 0.1  # as a share of the kernel's mean diagonal
CLIP = 5.0
MOST_LANDMARKS = 4096
FOLDS = 5
Blocks = Sequence[tuple[int, float]]  # width and weight of each block of features; one of weight 0 is not compared


class KernelHead(nn.Module):
    """Features -> outputs by a Gaussian kernel to landmarks; nothing in it is trained by gradient."""

    mean_F: torch.Tensor
    scale_F: torch.Tensor
    landmark_MC: torch.Tensor
    weight_MO: torch.Tensor
    bias_O: torch.Tensor

    def __init__(self, *, blocks: Blocks, landmarks: int, outputs: int) -> None:
        super().__init__()
        width = sum(width for width, _ in blocks)
        self.blocks = tuple(blocks)
        self.register_buffer("mean_F", torch.zeros(width))
        self.register_buffer("scale_F", torch.ones(width))
        compared = sum(width for width, weight in blocks if weight > 0)
        self.register_buffer("landmark_MC", torch.zeros(landmarks, compared, dtype=torch.float16))
        self.register_buffer("weight_MO", torch.zeros(landmarks, outputs))
        self.register_buffer("bias_O", torch.zeros(outputs))

    def standardise(self, x_BF: torch.Tensor) -> torch.Tensor:
        """Zero mean and unit variance over the items of training, clipped."""
        return ((x_BF - self.mean_F) / self.scale_F).clamp(-CLIP, CLIP)

    def normalise(self, x_BF: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, C) in which each block has its weight, whatever its width."""
        total = sum(weight for _, weight in self.blocks)
        parts = torch.split(self.standardise(x_BF), [width for width, _ in self.blocks], dim=1)
        scaled = [
            F.normalize(part, dim=1) * (weight / total) ** 0.5
            for part, (_, weight) in zip(parts, self.blocks, strict=True)
            if weight > 0
        ]
        return torch.cat(scaled, dim=1)

    def compare(self, x_BF: torch.Tensor) -> torch.Tensor:
        """Kernel of the rows to the landmarks, (B, M), in (0, 1]."""
        return torch.exp(-SHARPNESS * (1 - self.normalise(x_BF) @ self.landmark_MC.to(x_BF.dtype).T))

    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        """Outputs (B, O)."""
        return self.compare(x_BF) @ self.weight_MO + self.bias_O

    def rescale(self, factor_O: torch.Tensor) -> None:
        """Multiply each output by a constant."""
        self.weight_MO *= factor_O
        self.bias_O *= factor_O


def fit_kernel_head(
    x_NF: np.ndarray, target_NO: np.ndarray, *, blocks: Blocks, fold_N: np.ndarray, rng: np.random.Generator
) -> tuple[KernelHead, np.ndarray]:
    """Solve a head for ``target_NO``, and predict every row by a head that was solved without its fold.

    Returns:
        The head, and the cross-fitted predictions, float32 (N, O).
    """
    chosen = np.sort(rng.permutation(len(x_NF))[:MOST_LANDMARKS])
    head = KernelHead(blocks=blocks, landmarks=len(chosen), outputs=target_NO.shape[1])
    x = torch.from_numpy(x_NF.astype(np.float32))
    head.mean_F.copy_(x.mean(0))
    head.scale_F.copy_(x.std(0) + 1e-4)
    head.landmark_MC.copy_(head.normalise(x[chosen]).half())
    kernel_NM = head.compare(x).numpy()
    weight_MO, bias_O = _solve(kernel_NM, target_NO, landmarks=chosen)
    head.weight_MO.copy_(torch.from_numpy(weight_MO))
    head.bias_O.copy_(torch.from_numpy(bias_O))
    crossed_NO = head(x).numpy().copy()
    for fold in np.unique(fold_N):
        seen, held = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        kept = np.flatnonzero(np.isin(chosen, seen))
        if len(kept):
            landmarks = np.searchsorted(seen, chosen[kept])
            weight, bias = _solve(kernel_NM[np.ix_(seen, kept)], target_NO[seen], landmarks=landmarks)
            crossed_NO[held] = kernel_NM[np.ix_(held, kept)] @ weight + bias
    return head, crossed_NO


def _solve(kernel_NM: np.ndarray, target_NO: np.ndarray, *, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (M, O) and bias (O,) of the ridge regression; ``landmarks`` are the landmarks' rows."""
    bias_O = target_NO.mean(0)
    centred_NO = (target_NO - bias_O).astype(np.float64)
    kernel_MM = kernel_NM[landmarks].astype(np.float64)
    ridge = RIDGE * float(np.trace(kernel_MM)) / len(landmarks)
    eye_MM = np.eye(len(landmarks))
    if len(landmarks) == len(kernel_NM):
        left, right = kernel_MM + ridge * eye_MM, centred_NO
    else:
        tall = kernel_NM.astype(np.float64)
        left, right = tall.T @ tall + ridge * kernel_MM + 1e-6 * len(tall) * eye_MM, tall.T @ centred_NO
    weight_MO = scipy.linalg.solve((left + left.T) / 2, right, assume_a="pos")
    return weight_MO.astype(np.float32), bias_O.astype(np.float32)


def draw_folds(cluster_N: np.ndarray, *, rng: np.random.Generator, folds: int = FOLDS) -> np.ndarray:
    """Fold of each item, int (N,); items of one cluster are in one fold, for variants would give each other away."""
    _, number_N = np.unique(cluster_N, return_inverse=True)
    return rng.permutation(np.arange(number_N.max(initial=0) + 1) % folds)[number_N]
