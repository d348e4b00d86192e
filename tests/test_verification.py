"""A release that comes out otherwise is told stage by stage."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.stages import run_dvc
from flows.verification import compare_locks, compare_metrics, hold, list_remotes, share_stores


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


def test_a_clone_has_the_remotes_of_the_workspace_with_long_names_and_spaces(tmp_path: Path) -> None:
    workspace, clone = tmp_path / "workspace", tmp_path / "clone"
    for folder in (workspace, clone):
        folder.mkdir()
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        run_dvc(folder, "init", "-q")
    store = tmp_path / f"a  store {'of many pictures ' * 10}here"
    run_dvc(workspace, "remote", "add", "-d", "mine", f"../{store.name}")
    run_dvc(workspace, "remote", "add", "far.away", "s3://bucket/x")
    share_stores(workspace, clone)
    assert list_remotes(clone) == {"mine": str(store), "far.away": "s3://bucket/x"}
