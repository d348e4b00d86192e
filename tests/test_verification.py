"""A release that comes out otherwise is told stage by stage."""

from __future__ import annotations

from typing import Any

import pytest

from flows.verification import compare_locks, compare_metrics, hold


def lock(**outs: str) -> dict[str, Any]:
    return {"stages": {stage: {"outs": [{"path": f"data/{stage}", "md5": md5}]} for stage, md5 in outs.items()}}


@pytest.mark.parametrize(
    ("ingest", "train", "verdicts", "holds"),
    [
        ("a", "b", ["equal", "equal"], True),
        ("a", "x", ["equal", "by its figures"], True),
        ("x", "b", ["DIFFERS", "equal"], False),
    ],
)
def test_early_stages_must_be_equal_and_training_is_held_to_its_figures(
    ingest: str, train: str, verdicts: list[str], holds: bool
) -> None:
    rows = list(compare_locks(lock(ingest="a", train="b"), lock(ingest=ingest, train=train)))
    assert [row.verdict for row in rows] == verdicts
    assert hold(rows) is holds


def test_a_stage_that_is_gone_differs() -> None:
    rows = list(compare_locks(lock(train="b"), lock()))
    assert [(row.got, row.verdict) for row in rows] == [("missing", "DIFFERS")]


@pytest.mark.parametrize(
    ("got", "verdict"), [({"map": 0.504}, "within"), ({"map": 0.506}, "DIFFERS"), ({"other": 0.5}, "DIFFERS")]
)
def test_a_figure_may_be_off_by_the_tolerance_and_not_missing(got: dict[str, float], verdict: str) -> None:
    rows = list(compare_metrics({"label": {"map": 0.5}, "n": 1}, {"label": got, "n": 1}, tolerance=0.005))
    assert (rows[0].what, rows[0].expected) == ("metrics.json", "1 figures")
    assert {row.verdict for row in rows[1:]} == {verdict}
