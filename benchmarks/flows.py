"""What the flows cost beside the work itself: ``python -m benchmarks.flows WORKSPACE``, with a live release in it.

Works on copies of the workspace, which stays as it is. With ``--pictures N`` only ``refresh`` is measured, in a
catalogue that first grows to N pictures by turned and mirrored copies of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import yaml
from PIL import Image, ImageOps

from benchmarks.__main__ import describe_machine
from cbir.index.tables import publish_table
from cbir.registry import open_registry
from cbir.workspace import locate_index
from flows.stages import run_dvc

NEW_SHARE = 0.01
RELEASE_TASKS = (
    "register the release",
    "publish the index table",
    "check the release",
    "compare with the champion",
    "decide",
    "write the model card",
    "promote",
    "clean up",
)


def main() -> None:
    """Measure, and print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--server", action="store_true", help="with a Prefect server running, as for a schedule")
    parser.add_argument("--pictures", type=int, metavar="N", help="measure `refresh` alone, among N pictures")
    chosen = parser.parse_args()
    workspace = chosen.workspace.resolve()
    with tempfile.TemporaryDirectory(dir=workspace.parent) as scratch, contextlib.ExitStack() as stack:
        if chosen.server:
            stack.enter_context(serve(Path(scratch) / "server"))
        refreshed = copy_workspace(workspace, Path(scratch) / "refresh")
        if chosen.pictures:
            rows = [measure_refresh(refreshed, pictures=chosen.pictures)]
        else:
            rows = [
                measure_nothing(copy_workspace(workspace, Path(scratch) / "nothing")),
                measure_refresh(refreshed),
                measure_overhead(workspace, Path(scratch)),
            ]
    print(f"Machine: {describe_machine()}. Load average at the end: {os.getloadavg()[0]:.1f}.\n")
    print("| what | measured | how |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


@contextlib.contextmanager
def serve(home: Path) -> Iterator[None]:
    """A Prefect server on loopback, for the commands that are run meanwhile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    home.mkdir()
    os.environ |= {"PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    start = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            start, env=os.environ | {"PREFECT_API_URL": ""}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5).close()
                break
            time.sleep(0.5)
        yield
    finally:
        server.terminate()
        server.wait(timeout=30)


def copy_workspace(workspace: Path, to: Path) -> Path:
    """A copy to change."""
    print(f"copying to {to.name}", file=sys.stderr)
    return shutil.copytree(workspace, to, ignore=shutil.ignore_patterns(".venv"))


def measure_nothing(workspace: Path) -> list[str]:
    """`retrain` where nothing changed, and what it computed."""
    before = list_kept(workspace)
    seconds: list[float] = []
    for _ in range(3):
        with clock(seconds):
            answer = json.loads(run_command(workspace, "retrain"))
        assert answer["outcome"] == "unchanged", answer
    computed = len(list_kept(workspace) - before)
    return [
        "retrain with nothing to do",
        f"{statistics.median(seconds):.1f} s, {computed} images embedded",
        "median of 3",
    ]


def measure_refresh(workspace: Path, *, pictures: int = 0) -> list[str]:
    """`refresh` for the first time, after one in a hundred pictures came, and with nothing new, against embedding all.

    The first one opens every file, as nothing is known of them; a scheduled one finds them known. Where there are
    fewer than ``pictures``, the live table first gets the rows of as many.
    """
    missing = pictures - json.loads((workspace / "data/embedded/embedded.json").read_text())["rows"]
    if missing > 0:
        add_pictures(workspace, "grown", count=missing)
    taken: list[float] = []
    with tempfile.TemporaryDirectory(dir=workspace.parent) as name:  # without a cache of the towers' outputs
        ingested, embedded = (Path(name) / part for part in ("ingested", "embedded"))
        shutil.copy(workspace / "params.yaml", name)
        run_stage(Path(name), "cbir.ingest", workspace / "data/raw", ingested)
        with clock(taken):
            run_stage(Path(name), "cbir.embed", ingested, workspace / "data/encoder", embedded)
        rows = json.loads((embedded / "embedded.json").read_text())["rows"]
        table = open_registry(workspace).get_champion().table
        publish_table(uri=locate_index(workspace), table=table, ingested=ingested, embedded=embedded)
    count = round(NEW_SHARE * rows)
    for expected in (0, count, 0):
        if expected:
            add_pictures(workspace, "new", count=count)
        with clock(taken):
            answer = json.loads(run_command(workspace, "refresh", "--json"))
        assert answer["embedded"] == answer["added"] == expected, answer
    whole, first, new, nothing = taken
    return [
        f"refresh with {count:,} new of {answer['rows']:,} pictures",
        f"{new:.1f} s, {new / whole:.1%} of {whole:.1f} s that the stage `embed` takes for the others; "
        f"with nothing new {nothing:.1f} s, for the first time {first:.1f} s",
        "each a command, from start to end; nothing kept for the stage",
    ]


def measure_overhead(workspace: Path, scratch: Path) -> list[str]:
    """`retrain` after another seed, less `dvc repro` by hand and the tasks that release."""
    by_hand, by_flow = (copy_workspace(workspace, scratch / name) for name in ("by_hand", "by_flow"))
    for copy in (by_hand, by_flow):
        params = yaml.safe_load((copy / "params.yaml").read_text())
        params["train"]["seed"] += 1
        (copy / "params.yaml").write_text(yaml.safe_dump(params))
    taken: list[float] = []
    with clock(taken):
        run_dvc(by_hand, "repro")
    with clock(taken):
        run_command(by_flow, "retrain", ok=(0, 3, 4))
    tasks = read_tasks(by_flow)
    release = sum(seconds for name, seconds in tasks if name.startswith(RELEASE_TASKS))
    hand, flow = taken
    print("\n".join(f"{seconds:7.2f} {name}" for name, seconds in tasks), file=sys.stderr)
    return [
        "retrain with another seed, beside its work",
        f"{flow - hand - release:.1f} s: {flow:.1f} s, of it {hand:.1f} s `dvc repro` and {release:.1f} s releasing",
        "the command, less the same stages by hand in a copy and the release tasks' own time",
    ]


def read_tasks(workspace: Path) -> list[tuple[str, float]]:
    """Name and seconds of the task runs of the last flow run, in their order."""
    query = """SELECT task_run.name, (julianday(task_run.end_time) - julianday(task_run.start_time)) * 86400
        FROM task_run JOIN flow_run ON flow_run.id = task_run.flow_run_id
        WHERE flow_run.start_time = (SELECT MAX(start_time) FROM flow_run) ORDER BY task_run.start_time"""
    home = Path(os.environ.get("PREFECT_HOME", workspace / ".prefect"))
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as database:
        return database.execute(query).fetchall()


def add_pictures(workspace: Path, name: str, *, count: int) -> None:
    """Import copies of the workspace's pictures, each turned otherwise, with a caption, as the source ``name``."""
    print(f"drawing {count} pictures", file=sys.stderr)
    folder = workspace / name
    folder.mkdir()
    sources = [source for source in (workspace / "data/raw").iterdir() if source.name not in ("grown", "new")]
    own = sorted(path for source in sources for path in source.rglob("*.png"))
    first = 3 if name == "new" else 5  # degrees: no picture of one source is one of the other
    drawn = [(own[n % len(own)], folder / f"{n}.png", first + 10 * (n // len(own))) for n in range(count)]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(turn_picture, *zip(*drawn, strict=True), chunksize=100))
    lines = [{"file_name": f"{n}.png", "caption": f"{name} picture number {n}"} for n in range(count)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run_command(workspace, "data", "import", str(folder), "--name", name)
    shutil.rmtree(folder)


def turn_picture(path: Path, to: Path, angle: int) -> None:
    """Write the mirror image of a picture, turned by ``angle`` degrees, at the size that towers take."""
    with Image.open(path) as picture:
        picture.thumbnail((224, 224))
        ImageOps.mirror(picture.convert("RGBA")).rotate(angle).save(to, compress_level=1)


def list_kept(workspace: Path) -> set[Path]:
    """Files of tower outputs that the workspace keeps: whatever is computed adds one."""
    return set((workspace / ".cbir/features").glob("*.npz"))


def run_stage(folder: Path, module: str, *paths: Path) -> None:
    """One stage by hand, in a folder with params.yaml."""
    subprocess.run([sys.executable, "-m", module, *map(str, paths)], cwd=folder, check=True, capture_output=True)


def run_command(workspace: Path, *arguments: str, ok: tuple[int, ...] = (0,)) -> str:
    """What `cbir-ops` prints in the workspace, run as a user would."""
    done = subprocess.run(
        [Path(sys.executable).parent / "cbir-ops", *arguments], cwd=workspace, capture_output=True, text=True
    )
    assert done.returncode in ok, done.stderr
    return done.stdout


@contextlib.contextmanager
def clock(seconds: list[float]) -> Iterator[None]:
    """Append how long the block took."""
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)


if __name__ == "__main__":
    main()
