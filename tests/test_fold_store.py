"""Folds that are done are kept under what their figures hang on, and one cross-validation at a time keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cbir.errors import WorkspaceError
from cbir.fold_store import STORE, name_folds, open_folds

INGESTED = Path("data/ingested")


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    scores = {
        "figures": {"label.map": (np.array([0.25, 1.0]), np.array(["4", "7"])), "b": (np.array([0.1]), np.array(["4"]))}
    }
    with open_folds(tmp_path, key="k") as store:
        assert store.read(0) is None
        store.write(0, scores)
    with open_folds(tmp_path, key="k") as store:
        found = store.read(0)
        assert store.read(1) is None
    assert found is not None
    assert list(found["figures"]) == ["label.map", "b"]
    for name, (value_Q, cluster_Q) in scores["figures"].items():
        assert found["figures"][name][0].tolist() == value_Q.tolist()
        assert found["figures"][name][1].tolist() == cluster_Q.tolist()
    assert found["gains"] == {}


def test_another_cross_validation_finds_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    with open_folds(tmp_path, key="k") as store:
        store.write(0, {"figures": {"map": (np.ones(1), np.ones(1))}})
        (store.work / "encoder").mkdir()
        before = store.work
    with open_folds(tmp_path, key="other") as store:
        assert store.read(0) is None
        assert list(store.work.iterdir()) == []
        assert store.work != before
    assert not list((tmp_path / STORE).glob("*"))


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with (
        open_folds(tmp_path, key="k"),
        pytest.raises(WorkspaceError, match="Another `cbir-ops crossval` is running here"),
        open_folds(tmp_path, key="k"),
    ):
        pass


def change_parameters(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("train: {epochs: 3}\nretention: {keep: 1}")


def change_items(workspace: Path) -> None:
    (workspace / INGESTED / "items-00000.parquet").write_bytes(b"other")


def change_code(workspace: Path) -> None:
    (workspace / "cbir/towers/deep.py").write_text("x = 2")


@pytest.mark.parametrize("change", [change_parameters, change_items, change_code])
def test_the_name_changes_with_all_that_figures_hang_on(tmp_path: Path, change: Callable[[Path], None]) -> None:
    (tmp_path / INGESTED).mkdir(parents=True)
    (tmp_path / INGESTED / "items-00000.parquet").write_bytes(b"items")
    (tmp_path / "cbir/towers").mkdir(parents=True)
    (tmp_path / "cbir/towers/deep.py").write_text("x = 1")
    (tmp_path / "params.yaml").write_text("train: {epochs: 2}\nretention: {keep: 1}")
    stages = "".join(f"  {name}: {{deps: [data/x, cbir/towers]}}\n" for name in ("split", "train", "evaluate"))
    (tmp_path / "dvc.yaml").write_text(f"stages:\n{stages}")
    before = name_folds(tmp_path, ingested=INGESTED, folds=5)
    (tmp_path / "params.yaml").write_text("train: {epochs: 2}\nretention: {keep: 9}")
    assert name_folds(tmp_path, ingested=INGESTED, folds=5) == before
    assert name_folds(tmp_path, ingested=INGESTED, folds=4) != before
    change(tmp_path)
    assert name_folds(tmp_path, ingested=INGESTED, folds=5) != before
