"""How people hear of a run: through a notification block that they keep in Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import Flow, get_run_logger, task
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.client.schemas.objects import FlowRun, State

from cbir.errors import CbirError, ParamsError
from cbir.params import NotifyParams
from cbir.params.file import load_section
from cbir.registry import open_registry
from flows.faults import may_pass
from flows.gate import find_release


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
    """Tell of what a run of `retrain` came to, and note that with the release.

    A message that cannot be sent is logged, and sent by the next run; the run is as it was.
    """
    outcome, name = summary["outcome"], Path(workspace).name
    subject, body = describe_outcome(name, summary)
    state = notify(workspace, outcome, subject=subject, body=body, return_state=True)
    if not state.is_completed():
        get_run_logger().warning("nobody was told, the next run tells: %s", state.message)
        return
    noted = note_told(workspace, summary["key"], outcome, return_state=True)
    if not noted.is_completed():
        get_run_logger().warning("the next run tells the same again: %s", noted.message)


@task(
    name="note what was told",
    task_run_name="note what was told",
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=may_pass,
)
def note_told(workspace: str, key: str, outcome: str) -> None:
    """Keep with the release what people were told of it, whether they wanted to hear it or not."""
    registry, release = find_release(Path(workspace), key)
    registry.record_told(release, outcome)


@task(
    name="look for what was not told",
    task_run_name="look for what was not told",
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=may_pass,
)
def find_untold(workspace: str, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a run with nothing to do has to tell, or None.

    That is what one that was killed, or whose message could not be sent, left; and that a release is kept back, which
    every run tells. Not that a release is live which a person promoted against the gate.
    """
    _, release = find_release(Path(workspace), summary["key"])
    if summary["outcome"] == "kept":
        return dict(summary)
    if not release.untold:
        return None
    if summary["outcome"] != "unchanged":
        return dict(summary)
    return {**summary, "outcome": "promoted"} if release.gate.get("verdict") == "pass" else None


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


def describe_live(workspace: Path) -> str:
    """What is live, and since when, as a run fails: it may do so after its promotion."""
    try:
        registry = open_registry(workspace)
        champion = registry.find_champion()
        last = registry.read_history()[-1:]
    except CbirError as error:
        return f"What is live cannot be read: {error}"
    said = name_live({"version": champion.version if champion else None}).capitalize()
    since = [entry["at"][:16] for entry in last if champion is not None and entry["version"] == champion.version]
    return f"{said}, since {since[0]} UTC." if since else f"{said}."


def tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of a flow that failed or crashed."""
    workspace = Path(flow_run.parameters["workspace"])
    block, params = load_block(workspace)
    if block is not None and "failed" in params.events:
        body = f"{state.message}\n{describe_live(workspace)} Mend the cause and run it again; it finishes the job."
        block.notify(body, subject=f"{workspace.name}: {flow.name} failed")  # type: ignore[unused-coroutine]
