"""Every item is tested exactly once, nothing straddles folds, and the means are the means of the folds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import ROOT, cbir
from hypothesis import given, settings
from hypothesis import strategies as st

from cbir.crossval import INGESTED, cross_validate, deal_folds, list_changed, name_parts, summarise, train_fold
from cbir.errors import SplitError, WorkspaceError
from cbir.fold_store import STORE, Scores, open_folds
from cbir.params import SplitParams
from cbir.records import ITEM_SCHEMA, write_table
from flows.stages import run_dvc

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FIRST = st.lists(st.integers(0, 11), min_size=24, max_size=60)


def number(clusters: list[int]) -> np.ndarray:
    return np.unique(clusters, return_inverse=True)[1]


@settings(deadline=None, max_examples=60)
@given(FIRST, st.integers(2, 4))
def test_folds_cover_every_item_once_and_clusters_never_straddle(clusters: list[int], folds: int) -> None:
    cluster_N = number([*clusters, *range(12), *range(12)])
    labels = [[f"label {n % 3}"] for n in range(len(cluster_N))]
    fold_N = deal_folds(cluster_N, labels, folds=folds, seed=0)
    assert set(fold_N) == set(range(folds))
    assert all(len(set(fold_N[cluster_N == cluster])) == 1 for cluster in set(cluster_N))
    for fold in range(folds):
        where_N = name_parts(fold_N == fold, cluster_N, labels, params=SplitParams())
        assert ((where_N == "test") == (fold_N == fold)).all()
        assert all(len(set(where_N[cluster_N == cluster])) == 1 for cluster in set(cluster_N))


def test_labels_are_spread_evenly_over_the_folds() -> None:
    labels = [["cat"]] * 12 + [["dog"]] * 24 + [[]] * 6
    fold_N = deal_folds(np.arange(42), labels, folds=3, seed=0)
    counts = [Counter(labels[n][0] if labels[n] else "" for n in np.flatnonzero(fold_N == fold)) for fold in range(3)]
    assert counts == [{"cat": 4, "dog": 8, "": 2}] * 3


@pytest.mark.parametrize("folds", [-1, 0, 1, 7])
def test_folds_that_do_not_fit_the_clusters_are_refused(folds: int) -> None:
    with pytest.raises(SplitError, match="give --folds from 2 to 6"):
        deal_folds(np.repeat(np.arange(6), 2), [["a"]] * 12, folds=folds, seed=0)


def test_folds_too_small_to_search_are_refused() -> None:
    with pytest.raises(SplitError, match="fewer than 6 --folds"):
        deal_folds(np.arange(6), [["a"]] * 6, folds=6, seed=0)


def test_no_items_are_no_folds() -> None:
    with pytest.raises(SplitError, match="no items"):
        deal_folds(np.array([], dtype=int), [], folds=2, seed=0)


def make_ingested(workspace: Path, *, params: str = "") -> Path:
    """A workspace of 24 items that was never trained in."""
    items = [
        {"id": str(n), "group": str(n), "sha256": f"{n:064x}", "phash": f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}"}
        for n in range(24)
    ]
    rows = [row | {"labels": ["a"]} for row in items]
    write_table(workspace / INGESTED / "items-00000.parquet", pa.Table.from_pylist(rows, schema=ITEM_SCHEMA))
    (workspace / "params.yaml").write_text(params)
    shutil.copy(ROOT / "dvc.yaml", workspace)
    shutil.copytree(ROOT / "cbir", workspace / "cbir")
    return workspace


def test_fractions_that_leave_nothing_to_train_on_are_refused_before_a_fold_is_dropped(tmp_path: Path) -> None:
    workspace = make_ingested(tmp_path, params="split: {validation: 0.5, test: 0.5}")
    with open_folds(workspace, key="of before") as store:
        store.write(0, {"figures": {"map": ask(1.0)}})
    with pytest.raises(SplitError, match=r"split\.validation and split\.test leave nothing for training; lower them"):
        cross_validate(workspace, folds=2, now=NOW, say=lambda _: None)
    assert (workspace / STORE / "of before/fold-1.parquet").exists()


def edit_parameters(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("train: {epochs: 3}")


def ingest_again(workspace: Path) -> None:
    shutil.copy(workspace / INGESTED / "items-00000.parquet", workspace / INGESTED / "items-00001.parquet")


@pytest.mark.parametrize("change", [edit_parameters, ingest_again])
def test_a_fold_during_which_something_changed_is_not_kept_and_those_before_it_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    workspace = make_ingested(tmp_path, params="train: {epochs: 2}")

    def run_fold(*_: object, fold: int) -> dict[str, Scores]:
        if fold == 1:
            change(workspace)
        return {"figures": {"label.fused_both.map": ask(0.5, 1.0)}, "gains": {}}

    monkeypatch.setattr("cbir.crossval._run_fold", run_fold)  # minutes
    with pytest.raises(WorkspaceError, match=r"changed while fold 2 was measured, so it is not kept\. Start again"):
        cross_validate(workspace, folds=3, now=NOW, say=lambda _: None)
    assert [path.name for path in (workspace / STORE).glob("*/*")] == ["fold-1.parquet"]


def ask(*values: float) -> tuple[np.ndarray, np.ndarray]:
    """Figures of as many queries, each a cluster of its own."""
    return np.array(values), np.arange(len(values))


def test_a_spread_is_that_of_a_sample_and_a_fold_without_a_figure_does_not_count() -> None:
    found = summarise([{"map": ask(0.2)}, {"map": ask(0.3, 0.5), "hit@1": ask(1.0)}, {"map": ask(0.9)}], seed=0)
    assert found["map"]["mean"] == pytest.approx(0.5)
    assert found["map"]["deviation"] == pytest.approx(0.13**0.5)  # (0.09 + 0.01 + 0.16) / 2
    assert (found["map"]["least"], found["map"]["greatest"], found["map"]["folds"]) == (0.2, 0.9, 3)
    assert (found["map"]["pooled"], found["map"]["queries"]) == (pytest.approx(0.475), 4)
    one = found["hit@1"]
    assert (one["mean"], one["deviation"], one["folds"], one["low"], one["high"]) == (1.0, None, 1, 1.0, 1.0)


def test_the_interval_is_over_the_clusters_of_all_folds() -> None:
    rng = np.random.default_rng(0)
    value_Q = rng.random(400)
    folds = [{"map": (part, np.arange(100))} for part in np.split(value_Q, 4)]
    found = summarise(folds, seed=0)["map"]
    error = 1.96 * value_Q.std() / 20
    assert found["low"] == pytest.approx(value_Q.mean() - error, abs=0.005)
    assert found["high"] == pytest.approx(value_Q.mean() + error, abs=0.005)
    mates = [{"map": (np.repeat(part, 4), np.repeat(np.arange(100), 4))} for part in np.split(value_Q, 4)]
    assert summarise(mates, seed=0)["map"]["low"] == pytest.approx(found["low"], abs=0.005)


def test_parameters_are_told_where_they_are_not_as_by_default(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("{train: {epochs: 2, loss: info_nce}, gate: {leaks: 3}, towers: {text: minilm-l6}}")
    assert list_changed(params) == {"train.epochs": 2}


RANKS = """
import pathlib, subprocess, time
rank = subprocess.Popen(["sleep", "600"])
pathlib.Path("rank.txt.partial").write_text(str(rank.pid))
pathlib.Path("rank.txt.partial").rename("rank.txt")
time.sleep(600)
"""


def test_an_interrupted_training_leaves_none_of_its_processes_behind(tmp_path: Path) -> None:
    (tmp_path / "cbir").mkdir()
    (tmp_path / "cbir/__init__.py").touch()
    (tmp_path / "cbir/train.py").write_text(RANKS)  # what lies in the workspace is found first
    told = tmp_path / "rank.txt"

    def interrupt() -> None:
        wait_until(told.exists)
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # who is started in the background of a shell ignores it
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        train_fold(tmp_path, tmp_path / "0", fold=0)
    thread.join()
    wait_until(lambda: not is_running(int(told.read_text())))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
def test_a_cross_validation_shows_its_folds_and_writes_no_output_of_dvc(workspace: Path, catalogue: Path) -> None:
    nothing = cbir(workspace, "crossval")
    assert (nothing.returncode, "dvc repro ingest" in nothing.stderr) == (2, True), nothing.stderr
    cbir(workspace, "data", "import", str(catalogue), "--name", "squares")
    for arguments in (["add", "-q", "data/raw"], ["repro", "-q", "ingest"]):
        run_dvc(workspace, *arguments)
    lock, outputs = (workspace / "dvc.lock").read_bytes(), sorted((workspace / "data").iterdir())

    done = cbir(workspace, "crossval", "--folds", "2", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((workspace / "reports/crossval.json").read_text())
    assert [row["test"] for row in document["rows"]] == [24, 24]
    means = {name: total["mean"] for name, total in document["figures"].items()}
    assert {"text_to_image.fused.map", "label.fused_both.map"} <= set(means)
    for name, mean in means.items():
        values = [row["figures"][name] for row in document["rows"] if name in row["figures"]]
        assert mean == pytest.approx(sum(values) / len(values))
        total = document["figures"][name]
        assert total["low"] <= total["pooled"] <= total["high"]
    gains = document["gains"]
    assert {f"label.fused_both.map above {name}" for name in ("sum", "image_only", "bm25", "orb")} <= set(gains)
    for name, gain in gains.items():  # the rival's own mAP is between 0 and 1
        assert -1e-9 <= means[name.partition(" above ")[0]] - gain["mean"] <= 1 + 1e-9, name
    assert gains["label.fused_both.map above image_only"]["mean"] > 0
    page = (workspace / "reports/crossval.html").read_text()
    assert "<svg" in page
    for name in ("train.epochs 2", "loss <b>info_nce</b>", "data revision <b>"):
        assert name in page
    assert (workspace / "dvc.lock").read_bytes() == lock
    assert sorted((workspace / "data").iterdir()) == outputs
    (store,) = (workspace / ".cbir/crossval").iterdir()
    assert sorted(path.name for path in store.iterdir()) == ["fold-1.parquet", "fold-2.parquet"]

    (store / "fold-2.parquet").unlink()  # as if stopped before its end
    again = cbir(workspace, "crossval", "--folds", "2", "--json")
    assert "fold 1 of 2: measured by an earlier run" in again.stderr
    assert "fold 2 of 2: 20 train, 4 validation, 24 test" in again.stderr
    assert json.loads(again.stdout) == document
    assert list((workspace / ".cbir/scratch").iterdir()) == []
