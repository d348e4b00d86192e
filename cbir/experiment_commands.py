"""The commands that try training out: a search for parameters, and folds."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
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
    with _tell_stop("tune"):
        tuning = search(workspace, trials=trials, say=_say)
    if as_json:
        print_json(tuning.to_json())
    else:
        typer.echo("\n".join(list_rows(tuning)))
    again = f"dvc exp apply {tuning.best.experiment}"
    if not apply:
        _say(f"`{again}` brings the best trial into the workspace.")
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
    with _tell_stop("crossval"):
        document = cross_validate(workspace, folds=folds, now=datetime.now(UTC), say=_say)
    if as_json:
        print_json(document)
    else:
        typer.echo("\n".join(list_rows(document)))
    _say(f"{workspace / JSON}\n{workspace / PAGE}")


@contextmanager
def _tell_stop(command: str) -> Iterator[None]:
    """Say after Ctrl-C or SIGTERM what becomes of what was done so far."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        _say(f"Stopped; `cbir-ops {command}` with the same options keeps what is done and goes on.")
        raise


def _stop(signum: int, frame: Any) -> None:
    """Leave as after Ctrl-C: what was begun is put away."""
    sys.exit(128 + signum)


def _say(line: str) -> None:
    typer.echo(line, err=True)
