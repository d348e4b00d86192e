"""The commands that try training out: a search for parameters, and folds."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any

import typer

from cbir.printing import AsJson, print_json
from cbir.workspace import find_workspace


def tune(
    trials: Annotated[int, typer.Option(min=1, help="How many, those of earlier calls counted.")] = 20,
    apply: Annotated[bool, typer.Option("--apply", help="Bring the best trial into the workspace.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search for parameters of training that do better on validation items; `tune` in params.yaml says where."""
    from flows.stages import run_dvc
    from flows.tuning import list_rows
    from flows.tuning import tune as search

    signal.signal(signal.SIGTERM, _stop)
    workspace = find_workspace()
    tuning = search(workspace, trials=trials, say=_say)
    if as_json:
        print_json(tuning.to_json())
    else:
        typer.echo("\n".join(list_rows(tuning)))
    again = f"dvc exp apply {tuning.best.experiment}"
    if not apply:
        _say(f"The best trial, brought into the workspace: {again}")
        return
    run_dvc(workspace, "exp", "apply", str(tuning.best.experiment))
    _say(f"Trial {tuning.best.number} is in the workspace (`{again}`); `cbir-ops retrain` makes a release of it.")


def crossval(
    folds: Annotated[int, typer.Option(help="Into how many parts; each is the test items once.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Train and evaluate as often as there are folds: how much figures depend on which items are tested."""
    from cbir.crossval import JSON, PAGE, cross_validate, list_rows

    signal.signal(signal.SIGTERM, _stop)
    workspace = find_workspace()
    document = cross_validate(workspace, folds=folds, say=_say)
    if as_json:
        print_json(document)
    else:
        typer.echo("\n".join(list_rows(document)))
    _say(f"{workspace / JSON}\n{workspace / PAGE}")


def _stop(signum: int, frame: Any) -> None:
    """Leave as after Ctrl-C: what was begun is put away."""
    sys.exit(128 + signum)


def _say(line: str) -> None:
    typer.echo(line, err=True)
