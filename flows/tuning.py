"""How `cbir-ops tune` searches for better parameters: each trial a DVC experiment, run beside the workspace."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cbir.errors import GitError, StageError, TrainingError, WorkspaceError
from cbir.features import CACHE
from cbir.git import check_out, git, read_state
from cbir.history import find_best
from cbir.locks import LOCKS, hold_lock
from cbir.outputs import hash_code
from cbir.params import ReleaseParams, TuneParams
from cbir.params.file import load_section
from cbir.printing import align_columns
from cbir.records import read_json
from cbir.registry.trials import TrialRuns
from cbir.search_space import check_space, is_share, read_present
from cbir.study import Study, Trial
from flows.stages import STAGES, find_changes, read_yaml, run_dvc
from flows.verification import share_stores

PLACE = Path(".cbir/tune")  # in the workspace
BEFORE = ("data/raw.dvc", "data/kept", "ingest", "validate", "split")  # what training builds on
HISTORY = Path("data/encoder/history.json")
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A search as it stands: its trials in order, and the best one, which `dvc exp apply` brings back."""

    study: str
    metric: str
    trials: list[Trial]
    best: Trial

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        best = {"number": self.best.number, "experiment": self.best.experiment, "score": self.best.score}
        return {
            "study": self.study,
            "metric": self.metric,
            "best": best | {"values": self.best.values},
            "trials": [asdict(trial) for trial in self.trials],
        }


def tune(workspace: Path, *, trials: int, say: Say) -> Tuning:
    """Search until ``trials`` are done, those of earlier calls with the same search, data and parameters counted.

    A trial runs the train stage in a clone that shares the workspace's DVC cache, so that the workspace is as before
    whatever happens; only its git gets the experiments. Test items are not looked at.

    Raises:
        ParamsError: the search names what cannot be searched.
        GitError: nothing is committed.
        WorkspaceError: a stage has not run, or another search is running.
        StageError: the data changed since the stages ran.
        TrainingError: there are no validation items, or no trial ended with a score.
    """
    params = load_section(workspace / "params.yaml", "tune", TuneParams)
    check_space(params)
    present = read_present(workspace / "params.yaml")
    _require_ready(workspace)
    name = name_study(workspace, params=params, present=present)
    (workspace / PLACE).mkdir(parents=True, exist_ok=True)
    busy = WorkspaceError("Another `cbir-ops tune` is running here; wait for it, or stop it.")
    with hold_lock(workspace / LOCKS / "tune.lock", busy=busy):
        study = Study(workspace / PLACE / "optuna.db", name=name, space=params.search, seed=params.seed)
        release = load_section(workspace / "params.yaml", "release", ReleaseParams)
        runs = TrialRuns(workspace, name=f"{release.name}-tuning", study=name)
        for left in study.close_stopped():
            say(f"trial {left.number} was stopped; its values are tried again")
        runs.close_stopped()
        if study.count_done() < trials:
            with _clone(workspace, say=say) as clone:
                search = _Search(workspace, clone=clone, study=study, runs=runs, params=params, name=name)
                while study.count_done() < trials:
                    search.run_trial(present, of=trials, say=say)
        return _conclude(study, runs, name=name, params=params)


def name_study(workspace: Path, *, params: TuneParams, present: Mapping[str, Any]) -> str:
    """Name of a search: a hash of all that must be equal for its trials to be comparable."""
    lock = read_yaml(workspace / "dvc.lock")["stages"]
    facts = {
        "tune": asdict(params),
        "fixed": {name: value for name, value in present.items() if name not in params.search},
        "data": [lock[name]["outs"][0]["md5"] for name in ("ingest", "split")],
        "code": hash_code(workspace, "train"),
    }
    return f"tune-{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]}"


def read_best(history: Path) -> dict[str, float]:
    """Figures on validation items of the epoch that training chose, as the stage ``train`` finds it."""
    rows = read_json(history)
    best = next(row for row in rows if row["epoch"] == find_best(rows))
    return {name: float(best[name]) for name in ("validation", "map", "hit@10", "epoch")}


def list_rows(tuning: Tuning) -> list[str]:
    """What a terminal shows: a line a trial, the best one with a star."""
    names = list(tuning.best.values)
    rows = []
    for trial in tuning.trials:
        star = " *" if trial.number == tuning.best.number else ""
        score = "-" if trial.score is None else f"{trial.score:.4f}"
        cells = [_format_value(trial.values.get(name, "-")) for name in names]
        rows.append([f"{trial.number}{star}", trial.state, score, *cells])
    return align_columns(["trial", "state", tuning.metric, *names], rows, names=2)


class _Search:
    """The trials of one call: where they run and where they are written down."""

    def __init__(
        self, workspace: Path, *, clone: Path, study: Study, runs: TrialRuns, params: TuneParams, name: str
    ) -> None:
        self.workspace, self.clone, self.study, self.runs = workspace, clone, study, runs
        self.params, self.name = params, name

    def run_trial(self, present: Mapping[str, Any], *, of: int, say: Say) -> None:
        """Run one trial to its score, or to the fault that training names; stopped, it is marked so and goes on up."""
        trial = self.study.ask(present)
        started = time.monotonic()
        named = ", ".join(f"{name}={_format_value(value)}" for name, value in trial.values.items())
        run = self.runs.begin(trial.number, trial.values)
        experiment = f"{self.name}-{trial.number:03d}"
        self.study.note(trial.number, experiment=experiment, run=run)
        try:
            say(f"trial {trial.number} ({self.study.count_done() + 1} of {of}): {named}")
            figures = self._train(experiment, trial.values)
        except StageError as error:
            self.study.fail(trial.number, reason=str(error))
            self.runs.fail(run, reason=str(error))
            say(f"trial {trial.number} failed: {error}")
            return
        except BaseException:
            self.study.fail(trial.number, reason="")
            self.runs.fail(run, reason="stopped")
            raise
        self.study.finish(trial.number, figures[self.params.metric])
        self.runs.end(run, figures=figures)
        best = self.study.find_best()
        assert best is not None
        seconds = time.monotonic() - started
        say(
            f"trial {trial.number}: {self.params.metric} {figures[self.params.metric]:.4f}, {seconds:.0f} s; "
            f"best so far {best.score:.4f}, trial {best.number}"
        )

    def _train(self, experiment: str, values: Mapping[str, Any]) -> dict[str, float]:
        settings: list[str] = []
        for name, value in values.items():
            added = "++" if is_share(name) else ""  # of Hydra: whether it is there or not
            settings += ["-S", f"{added}{name}={json.dumps(value)}"]
        run_dvc(self.clone, "exp", "run", "--single-item", "--name", experiment, *settings, "train")
        refs = git(self.clone, "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{experiment}").splitlines()
        if len(refs) != 1:
            raise StageError(f"DVC made no experiment {experiment}; run `dvc exp list --all`.")
        git(
            self.workspace, "fetch", "--quiet", git(self.clone, "rev-parse", "--show-toplevel"), f"+{refs[0]}:{refs[0]}"
        )
        return read_best(self.clone / HISTORY)


def _conclude(study: Study, runs: TrialRuns, *, name: str, params: TuneParams) -> Tuning:
    best, trials = study.find_best(), study.list_trials()
    if best is None or best.score is None:
        reason = next((trial.reason for trial in reversed(trials) if trial.reason), "none was begun")
        raise TrainingError(f"No trial of {len(trials)} ended with a score; the last one: {reason}")
    runs.close(best={params.metric: best.score}, experiment=best.experiment)
    return Tuning(study=name, metric=params.metric, trials=trials, best=best)


def _require_ready(workspace: Path) -> None:
    """Refuse where experiments could not start, or would not show what the workspace would train."""
    lock = workspace / "dvc.lock"
    ran = read_yaml(lock)["stages"] if lock.exists() else {}
    missing = [stage for stage in STAGES if stage not in ran]
    if missing:
        raise WorkspaceError(f"The stages {', '.join(missing)} have not run; run `cbir-ops retrain` first.")
    if read_state(workspace).commit is None:
        raise GitError("Experiments build on a git commit and there is none; run `git add -A && git commit` first.")
    changed = [name for name in find_changes(workspace) if name in BEFORE or name.startswith("data/kept/")]
    if changed:
        raise StageError(f"{', '.join(changed)} changed since the stages ran; run `cbir-ops retrain` first.")
    split = read_json(workspace / "data/split/split.json")
    if split["validation"] < 2:
        raise TrainingError("There are no validation items to tune on; raise split.validation and retrain.")


@contextmanager
def _clone(workspace: Path, *, say: Say) -> Iterator[Path]:
    """The workspace as it is, uncommitted changes included, in a clone that has its data and its features."""
    top = workspace / PLACE / "clone"
    _clear(top)
    say("preparing a clone of the workspace")
    state = read_state(workspace)
    assert state.commit is not None
    try:
        clone = check_out(workspace, commit=state.commit, folder=top)
        _copy_changes(workspace, clone, state.changed)
        (clone / CACHE.parent).mkdir(exist_ok=True)
        (workspace / CACHE).mkdir(parents=True, exist_ok=True)
        (clone / CACHE).symlink_to((workspace / CACHE).resolve())
        share_stores(workspace, clone)
        run_dvc(clone, "checkout", "data/ingested", "data/split")
        yield clone
    finally:
        _clear(top)


def _clear(folder: Path) -> None:
    """Remove a folder that a process which is just being killed may still write into."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.2)


def _copy_changes(workspace: Path, clone: Path, changed: list[str]) -> None:
    for name in changed:
        if (workspace / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(workspace / name, clone / name)
        else:
            (clone / name).unlink(missing_ok=True)
    if changed:
        git(clone, "add", "--all", "--", *changed)


def _format_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
