"""How a user's fault in a flow is told: in the states of its runs, and without a traceback."""

from __future__ import annotations

import logging

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from cbir.errors import CbirError, RegistryError

RUNS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
FAILED = "Finished in state Failed("
STOPPING = "Stopping temporary server"  # as the process ends, after everything that there is to say


def hide_tracebacks() -> None:
    """Leave the traceback of a user's fault out of every log of this process; a mistake of ours keeps its own.

    The message stays: Prefect logs it, and stores it, as the reason of the failed task run and flow run.
    """
    for name in RUNS:
        logging.getLogger(name).addFilter(_is_no_fault)


def leave_faults_to_caller() -> None:
    """Keep the reason of a failed run off this process's console, where the caller prints it once, last of all."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_no_reason)


def may_pass(task: Task, run: TaskRun, state: State) -> bool:
    """Whether trying again may help, as ``retry_condition_fn``: a user's fault stays until the user mends it.

    A registry that does not answer may be back in a moment.
    """
    fault = state.result(raise_on_failure=False)
    return isinstance(fault, RegistryError) or not isinstance(fault, CbirError)


def _is_no_fault(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], CbirError))


def _is_no_reason(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return not (said.startswith(STOPPING) or (record.name in RUNS and said.startswith(FAILED)))
