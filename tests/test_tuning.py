"""A search for parameters: what it may vary, that it goes on after a stop, and that the workspace stays as it was."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import cbir, command, set_param

from cbir.errors import ParamsError
from cbir.history import find_best
from cbir.params import SearchRange, TuneParams
from cbir.params.file import load_section
from cbir.search_space import check_space, read_present
from cbir.study import Study
from flows.tuning import read_best

ROOT = Path(__file__).parent.parent
SPACE = {"train.dropout": SearchRange(low=0.0, high=0.9), "train.loss": SearchRange(choices=("info_nce", "sigmoid"))}
PRESENT = {"train.dropout": 0.5, "train.loss": "info_nce"}


def test_our_own_search_is_one_that_training_takes() -> None:
    check_space(load_section(ROOT / "params.yaml", "tune", TuneParams))


@pytest.mark.parametrize(
    ("name", "where", "reason"),
    [
        ("train.learning_rat", {"low": 0.1, "high": 0.2}, r"did you mean train\.learning_rate\?"),
        ("split.seed", {"low": 0, "high": 9}, "no parameter of training"),
        ("train.dropout", {"low": 0.5, "high": 0.1}, r"low 0\.5 is not below high 0\.1; swap them"),
        ("train.dropout", {"low": 0.5, "high": 1.5}, "1.5: Input should be less than 1"),
        ("train.dropout", {"low": 0.0, "high": 0.5, "log": True}, "no logarithm"),
        ("train.dropout", {"low": 0.5}, "give low and high, or choices"),
        ("train.epochs", {"low": 1.5, "high": 3}, "1.5: Input should be a valid integer"),
        ("train.loss", {"low": 0, "high": 1}, "give choices"),
        ("train.loss", {"choices": ["info_nce"]}, "at least two choices"),
        ("train.late", {"choices": [0, 1]}, r"did you mean train\.late\.\w+\?"),
        ("train.late.gabro", {"low": 0, "high": 1}, r"did you mean train\.late\.gabor\?"),
        ("train.late.gabor", {"low": -1, "high": 1}, r"-1\.0: Input should be greater than or equal to 0"),
        ("train.loss", {"choices": ["info_nce", "hinge"]}, "hinge: Input should be"),
        ("train.loss", {"choices": ["info_nce", "sigmoid"], "low": 1}, "either choices, or low and high"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(
    tmp_path: Path, name: str, where: dict[str, Any], reason: str
) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"tune": {"search": {name: where}}}))
    with pytest.raises(ParamsError, match=reason):
        check_space(load_section(tmp_path / "params.yaml", "tune", TuneParams))


def test_shares_of_late_signals_are_parameters_of_their_own(tmp_path: Path) -> None:
    search = {"train.late.gabor": {"low": 0, "high": 1}}
    document = {"train": {"late": {"tower": 0.2}}, "tune": {"search": search}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
    check_space(load_section(tmp_path / "params.yaml", "tune", TuneParams))
    present = read_present(tmp_path / "params.yaml")
    assert (present["train.late.tower"], present["train.late.gabor"], present["train.epochs"]) == (0.2, 0.0, 5)
    assert "train.late" not in present


def test_a_search_of_nothing_is_refused() -> None:
    with pytest.raises(ParamsError, match="names nothing to search"):
        check_space(TuneParams())


def open_study(folder: Path) -> Study:
    return Study(folder / "optuna.db", name="s", space=SPACE, seed=3)


def score(values: dict[str, Any]) -> float:
    return float(values["train.dropout"]) + (values["train.loss"] == "sigmoid")


def test_a_stop_changes_nothing_that_is_tried_and_loses_no_trial(tmp_path: Path) -> None:
    whole = open_study(tmp_path / "whole")
    for _ in range(5):
        trial = whole.ask(PRESENT)
        whole.finish(trial.number, score(trial.values))
    for n in range(5):
        killed = open_study(tmp_path / "killed")
        killed.close_stopped()
        trial = killed.ask(PRESENT)
        if n in (0, 3):  # killed in this trial
            killed = open_study(tmp_path / "killed")
            assert [left.number for left in killed.close_stopped()] == [trial.number]
            trial = killed.ask(PRESENT)
        killed.finish(trial.number, score(trial.values))
    end = open_study(tmp_path / "killed")
    assert [trial.state for trial in end.list_trials()] == [
        "stopped",
        "done",
        "done",
        "done",
        "stopped",
        "done",
        "done",
    ]
    assert end.count_done() == 5
    tried = [trial.values for trial in end.list_trials() if trial.state == "done"]
    assert tried == [trial.values for trial in whole.list_trials()]
    assert tried[0] == PRESENT
    best = end.find_best()
    assert best is not None
    assert best.score == max(score(values) for values in tried)


def test_a_failed_trial_counts_keeps_its_reason_and_is_never_the_best(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.fail(study.ask(PRESENT).number, reason="The loss is not finite.")
    assert study.find_best() is None
    trial = study.ask(PRESENT)
    study.finish(trial.number, -1.0)
    best = study.find_best()
    assert (best and best.number, study.count_done()) == (1, 2)
    assert study.list_trials()[0].reason == "The loss is not finite."


def test_the_score_is_that_of_the_epoch_which_training_chooses(tmp_path: Path) -> None:
    rows = [
        {"epoch": n, "loss": 1.0, "map": value + 0.1, "hit@10": value - 0.1, "validation": value}
        for n, value in enumerate([0.3, 0.6, 0.6, 0.2])
    ]
    (tmp_path / "history.json").write_text(json.dumps(rows))
    assert read_best(tmp_path / "history.json") == {"epoch": 1, "map": 0.7, "hit@10": 0.5, "validation": 0.6}
    assert find_best(rows) == 1


def dvc(workspace: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=workspace, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(workspace: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=workspace, check=True, capture_output=True, text=True)
    return done.stdout


def see(workspace: Path) -> dict[str, str]:
    """Hash of every file that is the user's, and what git says of them."""
    files = [workspace / name for name in ("dvc.lock", "params.yaml", "metrics.json")]
    files += [path for folder in ("data", "cbir") for path in (workspace / folder).rglob("*") if path.suffix != ".pyc"]
    files = [path for path in files if path.is_file()]
    seen = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return seen | {"status": git(workspace, "status", "--short"), "stash": git(workspace, "stash", "list")}


def commit_code(workspace: Path) -> None:
    """As a clone has it; what `retrain` writes for git stays uncommitted."""
    (workspace / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    git(workspace, "add", ".gitignore", "cbir", "flows", "expectations", "golden", "dvc.yaml", "params.yaml", ".dvc")
    git(workspace, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "--message", "code")


def stop_in_trial(workspace: Path, number: int, *arguments: str) -> int:
    """Start the command and stop it once it trains for the trial of this number."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=workspace,
        env=os.environ | {"PYTHONPATH": str(workspace)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"trial {number} ("):
            process.send_signal(signal.SIGTERM)
    return process.wait(timeout=60)


@pytest.mark.slow
def test_a_stopped_search_goes_on_leaves_the_workspace_as_it_was_and_its_best_trial_can_be_had(live: Path) -> None:
    without = cbir(live, "tune", "--trials", "1")
    assert (without.returncode, "git commit" in without.stderr) == (2, True), without.stderr
    commit_code(live)
    search = {"dropout": {"low": 0.1, "high": 0.9}, "epochs": {"low": 1, "high": 3}}
    search["late.tower"] = {"low": 0, "high": 1}
    set_param(live, "tune", search={f"train.{name}": where for name, where in search.items()})
    before = see(live)

    assert stop_in_trial(live, 2, "tune", "--trials", "3") == 143
    assert see(live) == before
    assert not (live / ".cbir/tune/clone").exists()

    done = cbir(live, "tune", "--trials", "3", "--json")
    assert done.returncode == 0, done.stderr
    assert see(live) == before
    found = json.loads(done.stdout)
    trials = found["trials"]
    assert [trial["state"] for trial in trials] == ["done", "done", "stopped", "done"]
    assert trials[0]["values"] == {"train.dropout": 0.5, "train.epochs": 2, "train.late.tower": 0.0}  # as they were
    assert trials[3]["values"] == trials[2]["values"] != trials[1]["values"]
    best = max((trial for trial in trials if trial["score"] is not None), key=lambda trial: trial["score"])
    assert found["best"]["score"] == best["score"]

    again = cbir(live, "tune", "--trials", "3")
    assert f"dvc exp apply {found['best']['experiment']}" in again.stderr
    assert len(again.stdout.splitlines()) == 5

    last = trials[3]
    dvc(live, "exp", "apply", last["experiment"])
    params = yaml.safe_load((live / "params.yaml").read_text())["train"]
    values = {"train.dropout": params["dropout"], "train.epochs": params["epochs"]}
    assert values | {"train.late.tower": params["late"]["tower"]} == last["values"]
    assert read_best(live / "data/encoder/history.json")["validation"] == last["score"]
    assert json.loads(dvc(live, "status", "--json", "train").splitlines()[-1]) == {}
    assert_runs(live, states=["FAILED", "FINISHED", "FINISHED", "FINISHED"])


def assert_runs(workspace: Path, *, states: list[str]) -> None:
    """MLflow has one run of the search and a run a trial below it."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("cbir-tuning")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run not in parents]
    assert len(parents) == 1
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parents[0].info.run_id}
    assert sorted(run.info.status for run in children) == states
