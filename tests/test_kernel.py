"""The closed-form heads are the ridge regression they claim to be, and cross-fitting never sees what it predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge

from cbir import kernel
from cbir.kernel import draw_folds, fit_kernel_head

BLOCKS = ((3, 1.0), (5, 2.0))


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x_NF = rng.normal(size=(60, 8)).astype(np.float32)
    return x_NF, np.stack([x_NF[:, 0] > 0, x_NF[:, 3:].sum(1)], axis=1).astype(np.float32)


def fit(
    x_NF: np.ndarray, target_NO: np.ndarray, *, blocks: kernel.Blocks = BLOCKS
) -> tuple[kernel.KernelHead, np.ndarray]:
    fold_N = np.arange(len(x_NF)) % 5
    return fit_kernel_head(x_NF, target_NO, blocks=blocks, fold_N=fold_N, rng=np.random.default_rng(0))


def test_a_head_is_scikit_learns_kernel_ridge_on_its_normalised_blocks(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x_NF, target_NO = rows
    head, _ = fit(x_NF, target_NO)
    unit_NF = head.normalise(torch.from_numpy(x_NF)).numpy()
    oracle = KernelRidge(alpha=kernel.RIDGE, kernel="rbf", gamma=kernel.SHARPNESS / 2)
    oracle.fit(unit_NF, target_NO - target_NO.mean(0))
    expected = oracle.predict(unit_NF) + target_NO.mean(0)
    assert np.allclose(head(torch.from_numpy(x_NF)).numpy(), expected, atol=5e-3)  # landmarks are kept in 16 bits


def test_fewer_landmarks_than_items_predict_nearly_the_same(
    rows: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x_NF, target_NO = rows
    full = fit(x_NF, target_NO)[0](torch.from_numpy(x_NF)).numpy()
    monkeypatch.setattr(kernel, "MOST_LANDMARKS", 45)
    few = fit(x_NF, target_NO)[0]
    assert len(few.landmark_MC) == 45
    assert np.corrcoef(few(torch.from_numpy(x_NF)).numpy()[:, 1], full[:, 1])[0, 1] > 0.95


def test_by_landmarks_a_fold_is_predicted_by_what_its_rows_are_taken_out_of(
    rows: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x_NF, target_NO = rows
    monkeypatch.setattr(kernel, "MOST_LANDMARKS", 45)
    monkeypatch.setattr(kernel, "BLOCK", 7)
    head, crossed_NO = fit(x_NF, target_NO)
    kernel_NM = head.compare(torch.from_numpy(x_NF)).double().numpy()
    chosen = np.sort(np.random.default_rng(0).permutation(60)[:45])
    for fold in range(5):
        seen, kept = np.arange(60) % 5 != fold, np.flatnonzero(chosen % 5 != fold)
        tall, bias = kernel_NM[seen][:, kept], target_NO[seen].mean(0)
        landmarks = kernel_NM[chosen[kept]][:, kept]
        left = tall.T @ tall + kernel.RIDGE * np.trace(landmarks) / len(kept) * landmarks
        left += 1e-6 * len(tall) * np.eye(len(kept))
        weight = np.linalg.solve(left, tall.T @ (target_NO[seen] - bias))
        assert np.allclose(crossed_NO[~seen], kernel_NM[~seen][:, kept] @ weight + bias, atol=2e-3)


def test_a_cross_fitted_prediction_does_not_know_its_own_target(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x_NF, target_NO = rows
    changed_NO = target_NO.copy()
    changed_NO[7] += 100.0
    before, after = fit(x_NF, target_NO)[1], fit(x_NF, changed_NO)[1]
    assert np.array_equal(before[7], after[7])
    assert not np.allclose(before[8], after[8])


def test_each_block_has_its_weight_whatever_its_width(rows: tuple[np.ndarray, np.ndarray]) -> None:
    unit_NF = fit(*rows)[0].normalise(torch.from_numpy(rows[0]))
    assert torch.allclose(unit_NF[:, :3].square().sum(1), torch.tensor(1 / 3), atol=1e-5)
    assert torch.allclose(unit_NF[:, 3:].square().sum(1), torch.tensor(2 / 3), atol=1e-5)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=80), st.integers(0, 3))
def test_a_cluster_is_in_one_fold(clusters: list[int], seed: int) -> None:
    fold_N = draw_folds(np.array(clusters), rng=np.random.default_rng(seed))
    assert all(len({f for f, c in zip(fold_N, clusters, strict=True) if c == one}) == 1 for one in set(clusters))
    assert set(fold_N) <= set(range(kernel.FOLDS))


def test_a_block_of_no_weight_is_neither_compared_nor_kept(rows: tuple[np.ndarray, np.ndarray]) -> None:
    x_NF, target_NO = rows
    head, crossed = fit(x_NF, target_NO, blocks=((3, 0.0), (5, 2.0)))
    alone, crossed_alone = fit(x_NF[:, 3:], target_NO, blocks=((5, 2.0),))
    assert head.landmark_MC.shape == (60, 5)
    assert torch.allclose(head(torch.from_numpy(x_NF)), alone(torch.from_numpy(x_NF[:, 3:])), atol=1e-4)
    assert np.allclose(crossed, crossed_alone, atol=1e-4)
