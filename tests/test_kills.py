"""A retrain that is killed leaves search as it was until it promotes, and the next one finishes the job once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import lancedb
import pytest
from conftest import cbir, command, set_param
from inbox import BLOCK, Inbox, open_inbox

from cbir.registry import Registry
from cbir.workspace import locate_index

MOMENTS = (
    "Running stage 'train'",
    "Task run 'register the release",
    "Task run 'publish the index table",
    "Task run 'check the release",
    "Task run 'decide",
)


@pytest.fixture
def inbox(prefect_server: str) -> Iterator[Inbox]:
    with open_inbox(prefect_server) as inbox:
        yield inbox


def kill_retrain(workspace: Path, *, moment: str, server: str) -> None:
    """Start a retrain and kill it, with SIGKILL, as soon as a line of its log holds ``moment``."""
    environment = os.environ | {"PYTHONPATH": str(workspace), "PREFECT_API_URL": server}
    with subprocess.Popen(
        command("retrain"), cwd=workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if moment in line:
                process.send_signal(signal.SIGKILL)
                return
    pytest.fail(f"{moment!r} never came:\n{''.join(seen)}")


@pytest.mark.slow
def test_a_killed_retrain_leaves_search_as_it_was_and_the_next_one_finishes_once(
    live: Path, prefect_server: str, inbox: Inbox
) -> None:
    set_param(live, "notify", block=BLOCK)
    set_param(live, "train", seed=1)
    ask = ("query", "a red square", "-k", "5", "--json")
    before = cbir(live, *ask)
    assert before.returncode == 0, before.stderr
    for moment in MOMENTS:
        kill_retrain(live, moment=moment, server=prefect_server)
        after = cbir(live, *ask)
        assert (after.returncode, after.stdout) == (0, before.stdout), f"{moment}: {after.stderr}"

    kill_retrain(live, moment="Task run 'promote", server=prefect_server)
    for _ in range(2):
        done = cbir(live, "retrain", PREFECT_API_URL=prefect_server)
        assert done.returncode == 0, done.stdout + done.stderr
        assert {"outcome": "unchanged", "version": "2"}.items() <= json.loads(done.stdout).items()
        assert done.stderr.count("Task run 'clean up") == 1
        assert [message["subject"] for message in inbox.messages] == [f"{live.name}: release 2 is live"]
    registry = Registry(live, name="cbir")
    assert [entry["version"] for entry in registry.read_history()] == ["1", "2"]
    champion = registry.find_champion()
    assert champion is not None
    assert registry.has_card(champion)
    tables = lancedb.connect(locate_index(live)).list_tables().tables
    assert sorted(tables)[-1:] == [champion.table]
    assert len(tables) == 2


@pytest.mark.slow
def test_a_refusal_that_a_kill_cut_short_is_described_and_told_once(
    live: Path, prefect_server: str, inbox: Inbox
) -> None:
    set_param(live, "notify", block=BLOCK)
    set_param(live, "gate", require="superiority", improve=["label.fused_both.map"])
    set_param(live, "embed", dimensions=256)
    kill_retrain(live, moment="Task run 'decide", server=prefect_server)
    for cards in (1, 0):
        done = cbir(live, "retrain", PREFECT_API_URL=prefect_server)
        assert (done.returncode, json.loads(done.stdout)["outcome"]) == (3, "refused"), done.stderr
        assert done.stderr.count("Task run 'write the model card") == cards
        assert [message["subject"] for message in inbox.messages] == [f"{live.name}: release 2 is refused"]
    registry = Registry(live, name="cbir")
    assert registry.has_card(registry.get_version("2"))
    assert [entry["version"] for entry in registry.read_history()] == ["1"]
