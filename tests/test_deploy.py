"""`cbir-ops deploy`: a schedule that is none is refused, and one that is starts the flow."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import cbir, command, set_param
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from cbir.errors import ParamsError
from flows.retrain import retrain
from flows.schedule import load_schedule

EVERY_20_SECONDS = "* * * * * */20"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{cron: every monday}", "schedule.cron: 'every monday' is no cron line; five fields"),
        ("{cron: '0 25 * * *'}", "schedule.cron: '0 25 \\* \\* \\*' is no cron line"),
        ("{timezone: Mars/Base}", "schedule.timezone: 'Mars/Base' is no time zone; name one, e.g. Europe/Berlin"),
        ("{corn: '0 3 * * *'}", "schedule.corn: unknown key; did you mean cron?"),
    ],
)
def test_a_schedule_that_is_none_says_what_would_be_one(tmp_path: Path, section: str, said: str) -> None:
    (tmp_path / "params.yaml").write_text(f"schedule: {section}")
    with pytest.raises(ParamsError, match=said):
        load_schedule(tmp_path / "params.yaml")


def test_a_schedule_keeps_its_clock(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("schedule: {cron: '0 3 * * 1', timezone: Europe/Berlin}")
    schedule = load_schedule(tmp_path / "params.yaml")
    assert (schedule.cron, schedule.timezone) == ("0 3 * * 1", "Europe/Berlin")


@pytest.mark.parametrize(("url", "said"), [("", "No Prefect server is"), ("http://127.0.0.1:9/api", "does not answer")])
def test_without_a_server_the_message_says_how_to_start_one(workspace: Path, url: str, said: str) -> None:
    done = cbir(workspace, "deploy", PREFECT_API_URL=url, PREFECT_HOME=str(workspace / ".prefect"))
    assert (done.returncode, said in done.stderr, "prefect server start" in done.stderr) == (2, True, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_deployment_of_another_workspace_is_not_taken_over(workspace: Path, prefect_server: str) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        retrain.to_deployment(name="taken", parameters={"workspace": "/elsewhere"}).apply()
    set_param(workspace, "schedule", name="taken")
    done = cbir(workspace, "deploy", PREFECT_API_URL=prefect_server)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "deployment retrain/taken already, of /elsewhere" in done.stderr
    assert "`schedule.name` in params.yaml" in done.stderr


@pytest.mark.slow
def test_a_schedule_starts_the_flow_and_stopping_pauses_it(live: Path, prefect_server: str) -> None:
    set_param(live, "schedule", cron=EVERY_20_SECONDS)
    log = live / "deploy.log"
    environment = os.environ | {"PYTHONPATH": str(live), "PREFECT_API_URL": prefect_server}
    environment["PREFECT_RUNNER_POLL_FREQUENCY"] = "2"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so its children
    with log.open("w") as out:
        served = subprocess.Popen(command("deploy"), cwd=live, env=environment, stdout=out, stderr=out)
    try:
        run = wait_for_run(prefect_server, log)
    finally:
        served.send_signal(signal.SIGINT)
        served.wait(timeout=60)
    assert run.auto_scheduled
    assert run.parameters == {"workspace": str(live)}
    assert run.state is not None
    assert run.state.is_completed(), f"{run.state}\n{log.read_text()}"
    assert "nothing to do: release 1 is live" in log.read_text()
    with temporary_settings({PREFECT_API_URL: prefect_server}), get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("retrain/live")
    assert deployment.paused
    assert deployment.global_concurrency_limit is not None
    assert deployment.global_concurrency_limit.limit == 1


def wait_for_run(url: str, log: Path) -> FlowRun:
    """The first run of the deployment ``live`` that has ended."""
    deadline = time.monotonic() + 180
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            for run in client.read_flow_runs():
                if run.deployment_id is not None and run.state is not None and run.state.is_final():
                    return run
            time.sleep(1)
    pytest.fail(f"no scheduled run has ended:\n{log.read_text()}")
