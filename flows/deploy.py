"""How `retrain` runs on a schedule, and by hand from Prefect's pages: one deployment, served in the foreground."""

from __future__ import annotations

from pathlib import Path

from prefect import get_client, serve
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType

from cbir.errors import ServerError
from cbir.params import ScheduleParams
from cbir.params.file import load_section
from flows.retrain import retrain
from flows.schedule import load_schedule

START = (
    "start `prefect server start` in another terminal, then "
    "`PREFECT_API_URL=http://127.0.0.1:4200/api cbir-ops deploy`."
)


def serve_retrain(workspace: Path) -> None:
    """Deploy ``retrain`` of ``workspace`` and run what is due, one at a time, until interrupted.

    Stopped, it pauses the schedule; started again, it takes it up. A run due while another is going waits for it.

    Raises:
        ParamsError: the schedule in ``params.yaml`` is not one.
        ServerError: no server is configured, it does not answer, or it has a deployment of this name already.
    """
    schedule = load_schedule(workspace / "params.yaml")
    name = load_section(workspace / "params.yaml", "schedule", ScheduleParams).name or workspace.resolve().name
    check_server()
    check_name(name, workspace)
    deployment = retrain.to_deployment(
        name=name,
        schedules=[schedule],
        parameters={"workspace": str(workspace.resolve())},
        concurrency_limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(deployment, RunnerDeployment), "a coroutine only inside of one"
    serve(deployment, limit=1)


def check_server() -> None:
    """Refuse to serve without a server, whose scheduler is what starts the runs.

    Raises:
        ServerError: none is configured, or it does not answer.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise ServerError(f"No Prefect server is configured; {START}")
    with get_client(sync_client=True) as client:
        fault = client.api_healthcheck()
    if fault is not None:
        raise ServerError(f"The Prefect server {url} does not answer ({fault}); see PREFECT_API_URL, or {START}")


def check_name(name: str, workspace: Path) -> None:
    """Refuse to take over the deployment of another workspace, whose schedule would then retrain this one.

    Raises:
        ServerError: there is one of that name.
    """
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(f"{retrain.name}/{name}")
        except ObjectNotFound:
            return
    owner = deployment.parameters.get("workspace")
    if owner != str(workspace.resolve()):
        raise ServerError(
            f"The Prefect server has a deployment {retrain.name}/{name} already, of {owner}; "
            "give this one another name, `schedule.name` in params.yaml."
        )
