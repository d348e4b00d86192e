"""How people hear of a run: through a notification block that they keep in Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import Flow, get_run_logger, task
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.client.schemas.objects import FlowRun, State

from cbir.errors import ParamsError
from cbir.params import NotifyParams
from cbir.params.file import load_section


def load_block(workspace: Path) -> tuple[NotificationBlock | None, NotifyParams]:
    """The block that ``notify.block`` names, None where it names none.

    Raises:
        ParamsError: Prefect holds no such block, or not one that notifies.
    """
    params = load_section(workspace / "params.yaml", "notify", NotifyParams)
    if params.block is None:
        return None, params
    try:
        block: Any = Block.load(params.block)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ParamsError(
            f"params.yaml: notify.block: {reason}; make a block such as slack-webhook/team in Prefect's pages under "
            "Blocks, or leave it null. `prefect block ls` lists them."
        ) from None
    if not isinstance(block, NotificationBlock):
        raise ParamsError(f"params.yaml: notify.block: {params.block} does not notify; name e.g. a Slack webhook.")
    return block, params


@task(name="look for the notification block", task_run_name="look for the notification block")
def check_block(workspace: str) -> None:
    """Fail while nothing is done yet where the block that is to tell of the run is not there."""
    load_block(Path(workspace))


@task(name="notify", task_run_name="notify: {event}", retries=2, retry_delay_seconds=[2, 10])
def notify(workspace: str, event: str, *, subject: str, body: str) -> bool:
    """Send one message where ``notify.events`` has its event; whether it was sent."""
    block, params = load_block(Path(workspace))
    if block is None or event not in params.events:
        return False
    with block.raise_on_failure():
        block.notify(body, subject=subject)  # type: ignore[unused-coroutine]  # outside of a loop it is no coroutine
    return True


def tell_outcome(workspace: str, summary: Mapping[str, Any]) -> None:
    """Tell of what a run of `retrain` came to. A message that cannot be sent is logged; the run is as it was."""
    outcome, name = summary["outcome"], Path(workspace).name
    subject, body = describe_outcome(name, summary)
    state = notify(workspace, outcome, subject=subject, body=body, return_state=True)
    if not state.is_completed():
        get_run_logger().warning("nobody was told: %s", state.message)


def describe_outcome(name: str, summary: Mapping[str, Any]) -> tuple[str, str]:
    """Subject and body of the message on what a run came to."""
    version, candidate, rows = summary["version"], summary.get("candidate"), summary["rows"]
    if summary["outcome"] == "promoted":
        return f"{name}: release {version} is live", f"Release {version} passed the gate; search has {rows} items."
    live = f"release {version} stays live" if version else "nothing is live yet"
    if summary["outcome"] == "kept":
        return f"{name}: {live}", f"Release {candidate} was live before and comes back only by a person, so {live}."
    return (
        f"{name}: release {candidate} is {summary['outcome']}",
        f"The gate did not let release {candidate} pass, so {live}.\n{summary['reasons']}\n"
        f"cbir-ops gate --explain --release {candidate} shows every rule.",
    )


def name_live(summary: Mapping[str, Any]) -> str:
    """What is live after a run, in words."""
    return f"release {summary['version']} is live" if summary["version"] else "no release is live"


def tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of a flow that failed or crashed."""
    workspace = Path(flow_run.parameters["workspace"])
    block, params = load_block(workspace)
    if block is not None and "failed" in params.events:
        body = f"{state.message}\nSearch is as it was. Mend the cause and run it again; it finishes the job."
        block.notify(body, subject=f"{workspace.name}: {flow.name} failed")  # type: ignore[unused-coroutine]
