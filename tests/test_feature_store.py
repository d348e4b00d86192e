"""What towers computed is kept whole or not at all, and a file that is torn costs a computation and no run."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest

from cbir.encoder import Features
from cbir.errors import WorkspaceError
from cbir.feature_store import UNUSED, USED, FeatureStore

TOWERS = "a" * 64
KEYS = ["one", "two"]


def make_features(rows: int, *, cells: int = 4) -> Features:
    rng = np.random.default_rng(0)
    return Features(
        image_BS=rng.normal(size=(rows, 3)).astype(np.float16),
        grid_BGV=rng.normal(size=(rows, cells, 2)).astype(np.float16),
        text_BR=rng.normal(size=(rows, 3)).astype(np.float16),
        captions_BR=rng.normal(size=(rows, 3)).astype(np.float16),
        tokens_BTW=rng.normal(size=(rows, 2, 3)).astype(np.float16),
        token_mask_BT=np.ones((rows, 2), bool),
        has_image_B=np.ones(rows, bool),
        has_text_B=np.ones(rows, bool),
    )


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, towers=TOWERS)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))  # no file may be larger, as on a full disk
    try:
        with pytest.raises(OSError, match="File too large"):
            store.write(KEYS, make_features(2, cells=2**19))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.rglob("*.npz")) == []
    assert "one" not in store


@pytest.mark.parametrize("left", [0, 100, -30], ids=["empty", "its head", "all but its end"])
def test_a_torn_file_is_computed_anew_and_told(tmp_path: Path, left: int, capsys: pytest.CaptureFixture[str]) -> None:
    FeatureStore(tmp_path, towers=TOWERS).write(KEYS, make_features(2))
    path = next(tmp_path.glob("*.npz"))
    path.write_bytes(path.read_bytes()[:left])
    store = FeatureStore(tmp_path, towers=TOWERS)
    assert "one" not in store
    assert f"{path} is not used, what it held is computed anew" in capsys.readouterr().err
    store.write(KEYS, make_features(2))
    assert "one" in FeatureStore(tmp_path, towers=TOWERS)
    assert capsys.readouterr().err == ""


def test_a_file_of_something_else_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"{TOWERS[:32]}-x.npz").write_text("no archive")
    np.savez(tmp_path / f"{TOWERS[:32]}-y.npz", other=np.zeros(3))
    FeatureStore(tmp_path, towers=TOWERS)
    assert capsys.readouterr().err.count("is not used") == 2


def test_a_file_that_is_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    FeatureStore(tmp_path, towers=TOWERS).write(KEYS, make_features(2, cells=500))
    path = next(tmp_path.glob("*.npz"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    store = FeatureStore(tmp_path, towers=TOWERS)
    assert "one" in store
    with pytest.raises(WorkspaceError, match=rf"{path.name} is damaged: .*; remove it, and what it held"):
        store.read(KEYS)


@pytest.mark.parametrize("marked", [True, False], ids=["as today", "as an earlier version left it"])
def test_rows_of_towers_that_nobody_opened_for_a_week_go_and_those_of_others_stay(tmp_path: Path, marked: bool) -> None:
    stores = {towers: FeatureStore(tmp_path, towers=towers * 64) for towers in "abc"}
    for store in stores.values():
        store.write(KEYS, make_features(2))
    long_ago = time.time() - 1.01 * UNUSED
    for path in tmp_path.iterdir():
        if not path.name.startswith("b"):
            os.utime(path, (long_ago, long_ago))
    if not marked:
        for path in tmp_path.glob(f"*{USED}"):
            path.unlink()
    opened = FeatureStore(tmp_path, towers="a" * 64)
    assert {path.name[0] for path in tmp_path.iterdir()} == {"a", "b"}
    assert opened.read(KEYS).image_BS.shape == (2, 3)
