"""Which values a search tries next, and what it has found; kept in a file, so that it can go on after a stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from cbir.params import SearchRange
from cbir.search_space import Space, contains, is_whole

REASON, EXPERIMENT, RUN = "reason", "experiment", "run"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of values. ``score``: on validation items, of one that is done; ``reason``: why one failed.

    ``experiment`` is its name in DVC, ``run`` its id in MLflow.
    """

    number: int
    values: dict[str, Any]
    state: Literal["done", "failed", "stopped", "running"]
    score: float | None
    reason: str | None = None
    experiment: str | None = None
    run: str | None = None


class Study:
    """A search in the SQLite file ``path``. Values depend on the seed and on what is done, not on stops in between."""

    def __init__(self, path: Path, *, name: str, space: Space, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._study = optuna.create_study(
            study_name=name, storage=f"sqlite:///{path.resolve()}", direction="maximize", load_if_exists=True
        )
        self._space = space
        self._seed = seed
        self._open: dict[int, optuna.Trial] = {}

    def list_trials(self) -> list[Trial]:
        """Every trial that was begun, in order."""
        return [_read_trial(trial) for trial in self._study.trials if trial.state != TrialState.WAITING]

    def count_done(self) -> int:
        """How many trials ended by themselves, with a score or with a fault; a stopped one is to be tried again."""
        return sum(trial.state in ("done", "failed") for trial in self.list_trials())

    def find_best(self) -> Trial | None:
        """The trial with the highest score, the first of equals; None where none has one."""
        scored = [trial for trial in self.list_trials() if trial.score is not None]
        return max(scored, key=lambda trial: (trial.score or 0.0, -trial.number), default=None)

    def close_stopped(self) -> list[Trial]:
        """Mark trials that a killed process left running as failed, and return them."""
        left = [trial for trial in self.list_trials() if trial.state == "running"]
        for trial in left:
            self._study.tell(trial.number, state=TrialState.FAIL)
        return left

    def ask(self, present: Mapping[str, Any]) -> Trial:
        """Begin a trial; the first one has the ``present`` values, as far as the search could come to them."""
        done = self.count_done()
        waiting = any(trial.state == TrialState.WAITING for trial in self._study.trials)
        if done == 0 and not waiting:
            inside = {name: present[name] for name, range_ in self._space.items() if contains(range_, present[name])}
            self._study.enqueue_trial(inside)
        self._study.sampler = TPESampler(seed=self._seed + done)
        trial = self._study.ask()
        for name, range_ in self._space.items():
            _suggest(trial, name, range_)
        self._open[trial.number] = trial
        return next(known for known in reversed(self.list_trials()) if known.number == trial.number)

    def note(self, number: int, *, experiment: str, run: str) -> None:
        """Say where else an open trial is known."""
        self._open[number].set_user_attr(EXPERIMENT, experiment)
        self._open[number].set_user_attr(RUN, run)

    def finish(self, number: int, score: float) -> None:
        """End a trial with its score."""
        self._study.tell(self._open.pop(number), score)

    def fail(self, number: int, *, reason: str) -> None:
        """End a trial that has no score."""
        trial = self._open.pop(number)
        trial.set_user_attr(REASON, reason)
        self._study.tell(trial, state=TrialState.FAIL)


def _suggest(trial: optuna.Trial, name: str, range_: SearchRange) -> None:
    if range_.choices is not None:
        trial.suggest_categorical(name, range_.choices)
        return
    assert range_.low is not None
    assert range_.high is not None
    if is_whole(name):
        trial.suggest_int(name, int(range_.low), int(range_.high), log=range_.log)
    else:
        trial.suggest_float(name, range_.low, range_.high, log=range_.log)


def _read_trial(trial: FrozenTrial) -> Trial:
    reason = trial.user_attrs.get(REASON)
    failed: Literal["failed", "stopped"] = "failed" if reason else "stopped"
    score = trial.values[0] if trial.state == TrialState.COMPLETE else None
    return Trial(
        number=trial.number,
        values=dict(trial.params),
        state={TrialState.COMPLETE: "done", TrialState.FAIL: failed}.get(trial.state, "running"),
        score=score,
        reason=reason,
        experiment=trial.user_attrs.get(EXPERIMENT),
        run=trial.user_attrs.get(RUN),
    )
