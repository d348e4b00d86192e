"""A full disk or a registry that is away ends in one clear failure; search goes on, and a rerun finishes the job."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, command
from test_faults_kills import Course, Victim
from test_faults_kills import course as course
from test_faults_kills import victim as victim

from cbir.search import Searcher

DISK = 4 * 2**20  # bytes


def ask(workspace: Path) -> list[tuple[str, float]]:
    hits = Searcher.open(workspace).query(text="a red square", image=None, k=50)
    return [(hit.id, hit.score) for hit in hits]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["release", "refresh"])
@pytest.mark.parametrize("limit", [1_000, 100_000])
def test_a_file_that_cannot_be_written_whole_leaves_search_as_it_was_and_a_rerun_finishes(
    course: Course, victim: Victim, step: str, limit: int
) -> None:
    before = ask(course.workspace)
    revision = course.prepare(step)
    answer = victim.take(step, revision, file_size=limit)
    assert (answer["status"] != 0, answer["killed"]) == (True, False), "the database does not fit"
    assert ask(course.workspace) == before
    victim.finish(step, revision)
    course.advance(step)
    course.check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds a few small releases, with the code that each carries."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"mount is not allowed here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("store", ["lancedb", "mlartifacts"])
@pytest.mark.parametrize("step", ["release", "refresh"])
def test_a_full_disk_leaves_search_as_it_was_and_a_rerun_with_room_finishes(
    course: Course, victim: Victim, small_disk: Path, store: str, step: str
) -> None:
    place = course.workspace / store
    subprocess.run(["cp", "-a", f"{place}/.", str(small_disk)], check=True)
    place.rename(course.workspace / f"{store}.moved")
    place.symlink_to(small_disk)
    (small_disk / "ballast").write_bytes(b"0" * (DISK - 4096 - used(small_disk)))
    before = ask(course.workspace)
    revision = course.prepare(step)
    answer = victim.take(step, revision)
    if step == "release" or store == "lancedb":
        assert (answer["status"] != 0, answer["killed"]) == (True, False)
        assert "No space left" in victim.log.read_text()
        assert ask(course.workspace) == before
    (small_disk / "ballast").unlink()
    victim.finish(step, revision)
    course.advance(step)
    course.check()


def used(folder: Path) -> int:
    """Bytes of the file system that are taken."""
    facts = os.statvfs(folder)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


@pytest.fixture
def dead_port() -> Iterator[tuple[str, list[int]]]:
    """The URL of a server that hangs up on everyone, and how often it was asked."""
    asked: list[int] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def hang_up() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return
                asked.append(1)

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["refresh"],
        ["query", "a red square"],
        ["releases", "list"],
        ["releases", "rollback", "--reason", "wrong hits"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_registry_that_is_away_is_asked_again_and_then_named_and_search_is_as_it_was(
    course: Course, dead_port: tuple[str, list[int]], arguments: list[str], prefect_server: str
) -> None:
    url, asked = dead_port
    (course.workspace / "dvc.yaml").touch()
    before, versions = ask(course.workspace), sorted((course.workspace / "lancedb").rglob("*.manifest"))
    held = Searcher.open(course.workspace)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": url,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        "PREFECT_API_URL": prefect_server,
    }
    done = subprocess.run(
        command(*arguments), cwd=course.workspace, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1].startswith(f"error: The registry {url} does not answer")
    assert "MLFLOW_TRACKING_URI" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert len(asked) >= 3
    assert [hit.id for hit in held.query(text="a red square", image=None, k=50)] == [id_ for id_, _ in before]
    assert ask(course.workspace) == before
    assert sorted((course.workspace / "lancedb").rglob("*.manifest")) == versions
