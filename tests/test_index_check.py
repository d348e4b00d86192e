"""Recall beside exact search, worked out on a table small enough to see through."""

from __future__ import annotations

from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from cbir.index import Index
from cbir.index_check import ask_fresh_process, measure_recall

ROWS, DIMENSIONS = 300, 8


def write_table(uri: Path, ids: np.ndarray, item_ND: np.ndarray) -> Index:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(item_ND.ravel()), DIMENSIONS)
    blank = [""] * len(ids)
    rows = {"id": ids.tolist(), "vector": vectors, "caption": blank, "label": blank, "source_path": blank}
    rows |= {"attributes": ["{}"] * len(ids), "thumbnail": [b""] * len(ids)}
    lancedb.connect(str(uri)).create_table("t", pa.table(rows))
    return Index.open(uri=str(uri), table="t")


@pytest.fixture
def vectors() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    item_ND = rng.normal(size=(ROWS, DIMENSIONS)).astype(np.float32)
    return np.array([f"squares/{n}" for n in range(ROWS)]), item_ND / np.linalg.norm(item_ND, axis=1, keepdims=True)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01])
def test_a_whole_index_finds_everything_under_every_filter(
    vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path, share: float
) -> None:
    ids, item_ND = vectors
    index = write_table(tmp_path, ids, item_ND)
    assert measure_recall(index, item_ND[:20], ids=ids, item_ND=item_ND, share=share) == 1.0


def test_an_index_that_lost_half_of_its_rows_finds_about_half(
    vectors: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    ids, item_ND = vectors
    index = write_table(tmp_path, ids[::2], item_ND[::2])
    assert measure_recall(index, item_ND, ids=ids, item_ND=item_ND, share=1.0) == pytest.approx(0.5, abs=0.05)


def test_of_equal_scores_either_is_right(tmp_path: Path) -> None:
    ids = np.array([f"squares/{n}" for n in range(40)])
    item_ND = np.zeros((40, DIMENSIONS), np.float32)
    item_ND[:, 0] = 1.0
    index = write_table(tmp_path, ids[::-1], item_ND)
    assert measure_recall(index, item_ND[:2], ids=ids, item_ND=item_ND, share=1.0) == 1.0


@pytest.mark.slow
def test_a_fresh_process_says_what_is_wrong(live: Path) -> None:
    (key,) = [path.name for path in (live / ".cbir/gate").iterdir()]
    assert ask_fresh_process(live, key) == ""
    assert "There is no release with the key nonsense" in ask_fresh_process(live, "nonsense")
