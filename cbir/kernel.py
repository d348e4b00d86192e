"""How labels and words are predicted from tower outputs in closed form, and how the predictions are cross-fitted.

On a few thousand items gradient training memorises its items within an epoch; ridge regression over a Gaussian kernel
does not (Saunders et al. 1998, Ridge regression learning algorithm in dual variables; for more items than landmarks,
the subset of regressors of Williams & Seeger 2001). What is trained on top of it learns from predictions for items
that the regression did not see (Wolpert 1992, Stacked generalization), so that it learns how far to trust them.

Shapes: N items, B batch, F features in blocks, C of blocks that are compared, M landmarks, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
BLOCK = 2048  # rows that are compared at once: as single precision they take several times what they are kept in
Solution = tuple[np.ndarray, np.ndarray, np.ndarray]  # landmarks that were used, weights (M, O), bias (O,)
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
    x_NF: np.ndarray,
    target_NO: np.ndarray,
    *,
    blocks: Blocks,
    fold_N: np.ndarray,
    rng: np.random.Generator,
    standardised: bool = True,
) -> tuple[KernelHead, np.ndarray]:
    """Solve a head for ``target_NO``, and predict every row by a head that was solved without its fold.

    ``standardised``: features of one block have no common scale, and each is given unit variance.

    Returns:
        The head, and the cross-fitted predictions, float32 (N, O).
    """
    chosen = np.sort(rng.permutation(len(x_NF))[:MOST_LANDMARKS])
    head = KernelHead(blocks=blocks, landmarks=len(chosen), outputs=target_NO.shape[1])
    if standardised:
        mean_F, deviation_F = _measure_spread(x_NF)
        head.mean_F.copy_(mean_F)
        head.scale_F.copy_(deviation_F + 1e-4)
    head.landmark_MC.copy_(torch.cat([head.normalise(x_BF).half() for x_BF in _cut_rows(x_NF[chosen])]))
    kernel_NM = torch.cat([head.compare(x_BF) for x_BF in _cut_rows(x_NF)]).numpy()
    solver = _Exact(kernel_NM, target_NO) if len(chosen) == len(x_NF) else _ByLandmarks(kernel_NM, target_NO, chosen)
    _, weight_MO, bias_O = solver.solve(held=np.array([], dtype=np.int64))
    head.weight_MO.copy_(torch.from_numpy(weight_MO))
    head.bias_O.copy_(torch.from_numpy(bias_O))
    crossed_NO = kernel_NM @ weight_MO + bias_O
    for fold in np.unique(fold_N):
        held = np.flatnonzero(fold_N == fold)
        if (fold_N[chosen] != fold).any():
            kept, weight, bias = solver.solve(held=held)
            crossed_NO[held] = kernel_NM[np.ix_(held, kept)] @ weight + bias
    return head, crossed_NO


def _cut_rows(x_NF: np.ndarray) -> Iterator[torch.Tensor]:
    """The rows in single precision, a block after the other."""
    for start in range(0, len(x_NF), BLOCK):
        yield torch.from_numpy(x_NF[start : start + BLOCK]).float()


def _measure_spread(x_NF: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (of a sample) of every feature, float32 (F,)."""
    mean_F, square_F = (torch.zeros(x_NF.shape[1], dtype=torch.float64) for _ in range(2))
    for x_BF in _cut_rows(x_NF):
        mean_F += x_BF.double().sum(0) / len(x_NF)
    for x_BF in _cut_rows(x_NF):
        square_F += (x_BF.double() - mean_F).square().sum(0)
    return mean_F.float(), (square_F / max(len(x_NF) - 1, 1)).sqrt().float()


class _Exact:
    """The regression where every row is a landmark."""

    def __init__(self, kernel_NN: np.ndarray, target_NO: np.ndarray) -> None:
        self.kernel_NN, self.target_NO = kernel_NN, target_NO

    def solve(self, *, held: np.ndarray) -> Solution:
        """Solve it without the rows ``held``."""
        kept = np.setdiff1d(np.arange(len(self.kernel_NN)), held)
        kernel_MM = self.kernel_NN[np.ix_(kept, kept)].astype(np.float64)
        bias_O = self.target_NO[kept].mean(0)
        centred_MO = (self.target_NO[kept] - bias_O).astype(np.float64)
        weight_MO = _solve(kernel_MM + _weigh_ridge(kernel_MM) * np.eye(len(kept)), centred_MO)
        return kept, weight_MO, bias_O.astype(np.float32)


class _ByLandmarks:
    """The regression of more rows than landmarks, by sums over rows of which those that are held out are taken off."""

    def __init__(self, kernel_NM: np.ndarray, target_NO: np.ndarray, chosen_M: np.ndarray) -> None:
        self.kernel_NM, self.target_NO, self.chosen_M = kernel_NM, target_NO, chosen_M
        self.sums = self._sum(np.arange(len(kernel_NM)))

    def solve(self, *, held: np.ndarray) -> Solution:
        """Solve it without the rows ``held``, some of which may be landmarks."""
        kept = np.flatnonzero(~np.isin(self.chosen_M, held))
        square_MM, cross_MO, kernel_M, target_O = (
            whole - part for whole, part in zip(self.sums, self._sum(held), strict=True)
        )
        count = len(self.kernel_NM) - len(held)
        landmark_MM = self.kernel_NM[np.ix_(self.chosen_M[kept], kept)].astype(np.float64)
        ridge_MM = _weigh_ridge(landmark_MM) * landmark_MM + 1e-6 * count * np.eye(len(kept))
        bias_O = target_O / count
        right_MO = cross_MO[kept] - kernel_M[kept, None] * bias_O
        return kept, _solve(square_MM[np.ix_(kept, kept)] + ridge_MM, right_MO), bias_O.astype(np.float32)

    def _sum(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Over the rows: products of two kernels (M, M), of kernel and target (M, O), kernels (M,), targets (O,)."""
        landmarks, outputs = self.kernel_NM.shape[1], self.target_NO.shape[1]
        square_MM, cross_MO = np.zeros((landmarks, landmarks)), np.zeros((landmarks, outputs))
        kernel_M, target_O = np.zeros(landmarks), np.zeros(outputs)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            kernel_BM, target_BO = (part[block].astype(np.float64) for part in (self.kernel_NM, self.target_NO))
            square_MM += kernel_BM.T @ kernel_BM
            cross_MO += kernel_BM.T @ target_BO
            kernel_M += kernel_BM.sum(0)
            target_O += target_BO.sum(0)
        return square_MM, cross_MO, kernel_M, target_O


def _weigh_ridge(kernel_MM: np.ndarray) -> float:
    return RIDGE * float(np.trace(kernel_MM)) / len(kernel_MM)


def _solve(left_MM: np.ndarray, right_MO: np.ndarray) -> np.ndarray:
    solved: np.ndarray = scipy.linalg.solve((left_MM + left_MM.T) / 2, right_MO, assume_a="pos")
    return solved.astype(np.float32)


def draw_folds(cluster_N: np.ndarray, *, rng: np.random.Generator, folds: int = FOLDS) -> np.ndarray:
    """Fold of each item, int (N,); items of one cluster are in one fold, for variants would give each other away."""
    _, number_N = np.unique(cluster_N, return_inverse=True)
    return rng.permutation(np.arange(number_N.max(initial=0) + 1) % folds)[number_N]
