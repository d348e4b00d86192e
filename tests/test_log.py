"""What was done to releases is written down once and in order, also by machines that share a registry."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from small_releases import NOW, make_registry, make_release

from cbir.errors import RegistryError
from cbir.registry import Registry, Release
from cbir.registry.log import lock_history

ENTRIES = 12  # of each machine


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry with release 1, that ``there`` is a second workspace of."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_registry(tmp_path / "here")
    make_release(tmp_path / "here", fingerprint="a")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'here/mlflow.db'}")
    return Registry(tmp_path / "here", name="cbir")


@pytest.fixture
def there(here: Registry, tmp_path: Path) -> Registry:
    return Registry(tmp_path / "there", name="cbir")


@pytest.fixture
def release(here: Registry) -> Release:
    return here.get_version("1")


def append_many(workspace: Path) -> None:
    """What one machine does, in a process of its own."""
    registry = Registry(workspace, name="cbir")
    for n in range(ENTRIES):
        registry.append_log(registry.get_version("1"), action="pin", reason=f"{workspace.name} {n}", now=NOW)


def test_machines_that_append_at_once_lose_nothing_and_fail_nowhere(here: Registry, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    machines = [context.Process(target=append_many, args=(tmp_path / name,)) for name in ("here", "there")]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join(timeout=120)
    assert [machine.exitcode for machine in machines] == [0, 0]
    said = [entry["why"] for entry in here.read_log()]
    for name in ("here", "there"):
        assert [why for why in said if why.startswith(name)] == [f"{name} {n}" for n in range(ENTRIES)]


def test_an_entry_that_another_machine_appends_between_reading_and_writing_is_not_overwritten(
    here: Registry, there: Registry, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = MlflowClient.set_registered_model_tag

    def write_late(*values: str) -> None:
        monkeypatch.setattr(MlflowClient, "set_registered_model_tag", write)
        there.append_log(release, action="pin", reason="theirs", now=NOW)
        write(*values)

    monkeypatch.setattr(MlflowClient, "set_registered_model_tag", write_late)
    here.promote(release, reason="ours", now=NOW)
    assert sorted(entry["why"] for entry in here.read_log()) == ["ours", "theirs"]
    assert [entry["version"] for entry in here.read_history()] == [here.get_champion().version]


def test_an_entry_comes_after_those_that_were_there_also_where_its_clock_is_behind(
    here: Registry, there: Registry, release: Release
) -> None:
    for registry, reason, hours in ((here, "first", 1), (there, "second", 0), (there, "third", 0)):
        registry.append_log(release, action="pin", reason=reason, now=NOW + timedelta(hours=hours))
    log = here.read_log()
    assert [entry["why"] for entry in log] == ["first", "second", "third"]
    assert log[1]["at"] == NOW.isoformat()


def test_numbered_entries_of_earlier_versions_come_first_and_in_their_order(here: Registry, release: Release) -> None:
    here.append_log(release, action="pin", reason="new", now=NOW)
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    for number in (10, 9):
        entry = f'{{"version": "1", "at": "x", "by": "y", "why": "{number}"}}'
        client.set_registered_model_tag("cbir", f"history.{number:06d}", entry)
    assert [entry["why"] for entry in here.read_log()] == ["9", "10", "new"]


def test_a_history_that_another_holds_is_named(tmp_path: Path) -> None:
    with (
        lock_history(tmp_path),
        pytest.raises(RegistryError, match=r"history\.lock\); wait for it"),
        lock_history(tmp_path, patience=0.1),
    ):
        pass


def test_a_user_without_a_name_is_written_down_by_number(tmp_path: Path) -> None:
    """In a process of its own, because it takes on a uid that has no name."""
    if os.getuid() != 0:
        pytest.skip("taking on another uid needs root")
    code = "import os; from cbir.registry.log import _name_user; os.setuid(54321); print(_name_user())"
    nameless = {
        name: value for name, value in os.environ.items() if name not in ("LOGNAME", "USER", "LNAME", "USERNAME")
    }
    done = subprocess.run([sys.executable, "-c", code], env=nameless, capture_output=True, text=True)
    assert done.stdout.strip() == "54321", done.stderr
