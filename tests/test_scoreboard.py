"""What an evaluation writes does not depend on how many systems it has, and an empty one can be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cbir.answers import Answers
from cbir.params import EvaluateParams
from cbir.scoreboard import PER_QUERY, PER_QUERY_SCHEMA, STATISTICS, Scoreboard, write_scores


def answer(system: str, *, add: float = 0.0) -> Answers:
    """Forty queries in twenty clusters, all answered ``add`` better."""
    ap_Q = np.linspace(0.1, 0.5, 40) + add
    return Answers(
        query_set="label",
        system=system,
        ids=[f"s/{n}" for n in range(40)],
        cluster_Q=np.arange(40) // 2,
        figures={"map": ap_Q},
        precision_QP=np.tile(ap_Q[:, None], 11),
    )


def fill(*systems: Answers) -> Scoreboard:
    board = Scoreboard(EvaluateParams())
    for one in systems:
        board.add(one)
    board.compare()
    return board


def test_one_more_system_changes_no_interval_of_the_others() -> None:
    few = fill(answer("fused_both", add=0.2), answer("sum"))
    more = fill(answer("histogram"), answer("fused_both", add=0.2), answer("orb"), answer("sum"))
    for system in ("fused_both", "sum"):
        assert more.statistics["label"][system]["interval"] == few.statistics["label"][system]["interval"]
    above = more.statistics["label"]["fused_both"]["above"]
    assert above["sum"] == few.statistics["label"]["fused_both"]["above"]["sum"]
    assert set(above) == {"histogram", "orb", "sum"}


def test_the_fused_system_is_set_above_the_others_by_its_mean_difference() -> None:
    above = fill(answer("fused_both", add=0.2), answer("sum")).statistics["label"]["fused_both"]["above"]["sum"]
    assert (above["difference"], above["low"], above["high"]) == pytest.approx((0.2, 0.2, 0.2))
    assert above["p_value"] < 0.01


def test_what_is_written_is_every_query_and_its_mean(tmp_path: Path) -> None:
    board = fill(answer("sum"))
    write_scores(board, tmp_path / "out", slices={}, golden=[])
    rows = pq.read_table(tmp_path / "out" / PER_QUERY).to_pylist()
    assert rows[0] == {"task": "label", "system": "sum", "query": "s/0", "average_precision": 0.1}
    assert len(rows) == board.summary["label"]["sum"]["queries"] == 40
    assert board.summary["label"]["sum"]["map"] == pytest.approx(0.3)


def test_a_catalogue_that_asks_nothing_leaves_files_that_can_be_read(tmp_path: Path) -> None:
    write_scores(fill(), tmp_path / "out", slices={}, golden=[])
    assert pq.read_table(tmp_path / "out" / PER_QUERY).schema.equals(PER_QUERY_SCHEMA)
    assert json.loads((tmp_path / "out" / STATISTICS).read_text()) == {}
