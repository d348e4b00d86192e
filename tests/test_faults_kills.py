"""Killed at any line or moment of a release, search goes on, and a rerun ends as if nothing was."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pytest
from conftest import ROOT
from killer import TRACED
from readers import read_forever
from refreshed import make_live, make_raw, run_stages

from cbir.index import Index
from cbir.registry import Registry

READERS = 4
MARKED = 12  # lines of each step
RANDOM = 25  # moments of each seed
STEPS = ("release", "refresh", "rollback")


class Victim:
    """The process that is told to take steps; see ``killer.py``."""

    def __init__(self, workspace: Path, log: Path) -> None:
        self.workspace, self.log = workspace, log
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/killer.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.with_suffix(".err").open("w"),
            text=True,
        )

    def take(self, step: str, revision: str, **order: Any) -> dict[str, Any]:
        """How the step's process ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order |= {"workspace": str(self.workspace), "log": str(self.log), "step": step, "revision": revision}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self.log.with_suffix(".err").read_text()
        return json.loads(answer)

    def finish(self, step: str, revision: str, **order: Any) -> float:
        """Take the step undisturbed, and return its seconds."""
        answer = self.take(step, revision, **order)
        assert answer["status"] == 0, f"{step} {revision}:\n{self.log.read_text()[-3000:]}"
        return answer["seconds"]

    def stop(self) -> None:
        """End the process, which holds nothing."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def ask_meanwhile(workspace: Path, folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Readers that ask until the end; what they counted is in the list then."""
    stop = folder / "stop"
    context = multiprocessing.get_context("spawn")
    reports = [folder / f"reader{n}.json" for n in range(READERS)]
    readers = [context.Process(target=read_forever, args=(workspace, report, stop)) for report in reports]
    for reader in readers:
        reader.start()
    counts: list[dict[str, Any]] = []
    try:
        yield counts
    finally:
        stop.touch()
        for reader in readers:
            reader.join(timeout=60)
    counts += [json.loads(report.read_text()) for report in reports]


class Course:
    """One release after the other, each refreshed and then rolled back from; and what must be true in between."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.registry = Registry(workspace, name="cbir")
        self.first = 0  # number of the raw data's first picture
        self.version = 1
        self.live = "1"
        self.rows = {"1": 0}
        self.log = [("promote", "1")]

    def prepare(self, step: str) -> str:
        """Change the raw data, run the stages; return the revision that the step is told."""
        if step == "rollback":
            return str(self.version - 1)
        self.first += 1
        make_raw(self.workspace, range(self.first, self.first + 8))
        if step == "release":
            self.version += 1
            run_stages(self.workspace, encoder=f"e{self.version}")
        return f"d{self.version}"

    def advance(self, step: str) -> None:
        """The step is done."""
        self.live = str(self.version - 1) if step == "rollback" else str(self.version)
        if step != "rollback":
            self.rows[self.live] = self.first
        self.log.append(("promote" if step == "release" else step, self.live))

    def check(self) -> None:
        """One version a key, one table a version, its rows once each, one line of history a step."""
        releases = self.registry.list_releases()
        assert [release.version for release in releases] == [str(n) for n in range(self.version, 0, -1)]
        assert len({release.key for release in releases}) == self.version
        assert self.registry.get_champion().version == self.live
        assert [(entry["action"], entry["version"]) for entry in self.registry.read_log()] == self.log
        tables = lancedb.connect(str(self.workspace / "lancedb")).list_tables().tables
        assert sorted(tables) == sorted(release.table for release in releases)
        for version in {self.live, str(self.version)}:
            index = Index.open(uri=str(self.workspace / "lancedb"), table=f"release_v{version}")
            start = self.rows[version]
            assert set(index.read_marks()) == {f"squares/{n}" for n in range(start, start + 8)}
            assert index.rows == 8
            assert index.fingerprint == self.registry.get_version(version).fingerprint
        runs = self.registry._client.search_runs([self.registry._tracking.find_or_create_experiment("cbir")])
        assert len(runs) == self.version


Kill = tuple[str, dict[str, Any]]  # of which step; "line", a file and a number, or "share" of the step's time


def run_undisturbed(course: Course, victim: Victim, folder: Path) -> tuple[dict[str, list[Any]], dict[str, float]]:
    """Take every step twice; the lines and the seconds of the second time, when nothing is done for the first."""
    lines: dict[str, list[Any]] = {}
    seconds: dict[str, float] = {}
    for step in STEPS * 2:
        trace = folder / f"{step}.json"
        victim.finish(step, course.prepare(step), trace=str(trace))
        course.advance(step)
        lines[step] = json.loads(trace.read_text())
    for step in STEPS:
        seconds[step] = victim.finish(step, course.prepare(step))
        course.advance(step)
    course.check()
    return lines, seconds


def choose_lines(lines: list[Any]) -> list[Any]:
    """``MARKED`` lines that a step ran: one of each file, in the middle, the others evenly spread."""
    files = [[place for place in lines if place[0] == name] for name in dict.fromkeys(name for name, _ in lines)]
    spread = MARKED - len(files)
    return [own[len(own) // 2] for own in files] + [
        lines[(2 * turn + 1) * len(lines) // (2 * spread)] for turn in range(spread)
    ]


def kill_and_finish(course: Course, victim: Victim, plan: list[Kill], *, seconds: dict[str, float]) -> list[Kill]:
    """Kill every step of the plan once and take it again; the kills that came before the step was done."""
    killed = []
    for step, where in plan:
        revision = course.prepare(step)
        order = {"moment": where["share"] * seconds[step]} if "share" in where else where
        answer = victim.take(step, revision, **order)
        assert answer["killed"] or answer["status"] == 0, f"{step} {where}:\n{victim.log.read_text()[-3000:]}"
        killed += [(step, where)] if answer["killed"] else []
        victim.finish(step, revision)
        course.advance(step)
        course.check()
        print(f"{len(killed)} {step} {where} {answer}", file=sys.stderr, flush=True)
    return killed


def check_readers(counts: list[dict[str, Any]]) -> None:
    """No query failed and none was answered by one release's model from another's table."""
    total = {name: sum(count[name] for count in counts) for name in ("queries", "failed", "mixed")}
    versions = {version for count in counts for version in count["versions"]}
    print(total, len(versions), file=sys.stderr)
    assert len(counts) == READERS
    assert (total["failed"], total["mixed"]) == (0, 0), [count["faults"] for count in counts]
    assert all(count["queries"] >= 10 for count in counts)
    assert len(versions) >= 5


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Course:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_live(tmp_path / "workspace")
    return Course(tmp_path / "workspace")


@pytest.fixture
def victim(course: Course, tmp_path: Path) -> Iterator[Victim]:
    victim = Victim(course.workspace, tmp_path / "victim.log")
    yield victim
    victim.stop()


def test_every_file_whose_lines_are_killed_at_is_there() -> None:
    assert [name for name in TRACED if not (ROOT / "cbir" / name).is_file()] == []


@pytest.mark.slow
def test_killed_at_a_line_search_goes_on_and_a_rerun_ends_as_if_nothing_was(
    course: Course, victim: Victim, tmp_path: Path
) -> None:
    lines, seconds = run_undisturbed(course, victim, tmp_path)
    marked = {step: choose_lines(lines[step]) for step in STEPS}
    plan: list[Kill] = [(step, {"line": marked[step][turn]}) for turn in range(MARKED) for step in STEPS]
    with ask_meanwhile(course.workspace, tmp_path) as counts:
        killed = kill_and_finish(course, victim, plan, seconds=seconds)
    check_readers(counts)
    assert {where["line"][0] for _, where in killed} == set(TRACED)
    assert len({(step, *where["line"]) for step, where in killed}) >= 30


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_search_goes_on_and_a_rerun_ends_as_if_nothing_was(
    course: Course, victim: Victim, tmp_path: Path, seed: int
) -> None:
    _, seconds = run_undisturbed(course, victim, tmp_path)
    rng = np.random.default_rng(seed)
    plan: list[Kill] = [(STEPS[n % 3], {"share": float(rng.uniform(0.02, 0.98))}) for n in range(RANDOM)]
    with ask_meanwhile(course.workspace, tmp_path) as counts:
        killed = kill_and_finish(course, victim, plan, seconds=seconds)
    check_readers(counts)
    assert len(killed) >= RANDOM // 2
