"""What a run does to the data holds when it is killed on the way and when something is imported meanwhile."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

import flows.data
from flows.data import keep_split, run_stages
from flows.stages import read_yaml, run_dvc


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A git and DVC repository with the splits of two runs, of which the first is kept."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    run_dvc(tmp_path, "init", "--quiet")
    for folder, text in (("split", "new"), ("kept", "old")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "split.parquet").write_text(text)
    run_dvc(tmp_path, "add", "data/kept/split.parquet")
    return tmp_path


def read_pointer(workspace: Path) -> str:
    return read_yaml(workspace / "data/kept/split.parquet.dvc")["outs"][0]["md5"]


def test_a_split_that_was_kept_when_the_run_was_killed_gets_its_pointer_from_the_next(workspace: Path) -> None:
    old = read_pointer(workspace)
    (workspace / "data/kept/split.parquet").write_text("new")  # killed before `dvc add`
    assert keep_split.fn(str(workspace)) is False
    assert read_pointer(workspace) != old
    assert run_dvc(workspace, "status", "--json") == ["{}"]


def test_a_new_split_is_kept_once(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep_split.fn(str(workspace)) is True
    assert (workspace / "data/kept/split.parquet").read_text() == "new"
    monkeypatch.setattr(flows.data, "run_dvc", lambda *_: pytest.fail("there is nothing to add"))
    assert keep_split.fn(str(workspace)) is False


def test_imports_wait_while_the_raw_data_are_versioned_and_ingested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, bool]] = []

    def note(workspace: str, step: str = "version") -> None:
        try:
            FileLock(tmp_path / "data/.import.lock").acquire(timeout=0).lock.release()
            done.append((step, False))
        except Timeout:
            done.append((step, True))

    monkeypatch.setattr(flows.data, "version_data", note)
    monkeypatch.setattr(flows.data, "run_stage", note)
    monkeypatch.setattr(flows.data, "keep_split", lambda workspace: False)
    run_stages(str(tmp_path), ["data/raw.dvc"])
    assert done[:4] == [("version", True), ("ingest", True), ("validate", False), ("split", False)]
    done.clear()
    run_stages(str(tmp_path), ["embed"])
    assert done == [("embed", False), ("evaluate", False)]
