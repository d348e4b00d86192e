"""A process that takes the steps of a release and is killed on the way, at a line of the product's code or a moment.

Started as ``python killer.py``, it reads one step a line as JSON and answers with one line. Each step is run in a fork,
made before any store was opened: importing MLflow and LanceDB anew takes seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image
from refreshed import publish, register

import cbir.index_check
import cbir.refresh
import cbir.registry.package
import cbir.search
from cbir.promotion import check_table, roll_back
from cbir.registry import Registry
from cbir.workspace import lock_table

ROOT = Path(cbir.refresh.__file__).parent
TRACED = (
    "changes.py",
    "index/__init__.py",
    "index/tables.py",
    "promotion.py",
    "refresh.py",
    "registry/__init__.py",
    "registry/log.py",
    "workspace.py",
)
PATHS = {str(ROOT / name): name for name in TRACED}


def release(workspace: Path, *, revision: str) -> None:
    """Register, publish, check, promote."""
    embedded = json.loads((workspace / "data/embedded/embedded.json").read_text())
    registry = Registry(workspace, name="cbir")
    made = register(workspace, fingerprint=embedded["fingerprint"], data_revision=revision)
    champion = registry.find_champion()
    if champion is None or champion.version != made.version:
        registry.name_challenger(made)
    with lock_table(workspace, made.table):
        publish(workspace, made)
    check_table(made, uri=str(workspace / "lancedb"))
    searcher = cbir.search.Searcher.open_release(workspace, registry=registry, release=made)
    assert searcher.query(text="a red square", image=None, k=3)
    index = cbir.index_check.Index.open(uri=str(workspace / "lancedb"), table=made.table)
    vectors = index.read_vectors(list(index.read_marks()))
    item_ND = np.stack(list(vectors.values()))
    found = cbir.index_check.measure_recall(index, item_ND[:2], ids=np.array(list(vectors)), item_ND=item_ND, share=1.0)
    assert found == 1.0
    registry.promote(made, reason="passed the gate", now=datetime.now(UTC))


def refresh(workspace: Path, *, revision: str) -> None:
    """Bring the live table in step with the raw data."""
    cbir.refresh.refresh_table(workspace, now=datetime.now(UTC), most_deleted=1.0)


def rollback(workspace: Path, *, revision: str) -> None:
    """Go back to the release ``revision``."""
    roll_back(workspace, to=revision, reason="wrong hits", now=datetime.now(UTC))


STEPS = {"release": release, "refresh": refresh, "rollback": rollback}


class Tracer:
    """Notes the lines that run, and kills this process at one of them."""

    def __init__(self, kill_at: tuple[str, int] | None) -> None:
        self.lines: dict[tuple[str, int], None] = {}
        self._kill_at = kill_at

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        """As ``sys.settrace`` wants it."""
        name = PATHS.get(frame.f_code.co_filename)
        if name is None:
            return None
        if event == "line":
            place = (name, frame.f_lineno)
            if place == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.lines[place] = None
        return self


def run_step(order: dict[str, Any]) -> None:
    """In a fork of its own; the lines that ran are left in the workspace where they are asked for."""
    log = Path(order["log"])
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    if order.get("file_size"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails then, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"], order["file_size"]))
    at = order.get("line")
    tracer = Tracer((at[0], at[1]) if at else None)
    if at or order.get("trace"):
        sys.settrace(tracer)
    STEPS[order["step"]](Path(order["workspace"]), revision=order["revision"])
    sys.settrace(None)
    if order.get("trace"):
        Path(order["trace"]).write_text(json.dumps(list(tracer.lines)))


def import_stores() -> None:
    """What MLflow imports only when a store is opened, once for all forks."""
    for name in ("tracking.sqlalchemy_store", "model_registry.sqlalchemy_store", "artifact.local_artifact_repo"):
        importlib.import_module(f"mlflow.store.{name}")
    Image.init()


def main() -> None:
    """Answer each order with how its process ended: ``{"status": n, "killed": true or false, "seconds": s}``."""
    import_stores()
    for line in sys.stdin:
        order = json.loads(line)
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            try:
                run_step(order)
            except BaseException:
                with suppress(OSError):  # the log may not be written to, either
                    traceback.print_exc()
                    sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        status = wait_or_kill(child, order.get("moment"))
        killed = os.WIFSIGNALED(status)
        answer = {"status": status, "killed": killed, "seconds": time.monotonic() - start}
        print(json.dumps(answer), flush=True)


def wait_or_kill(child: int, moment: float | None) -> int:
    """Status of the child, that is killed after ``moment`` seconds where it still runs then."""
    deadline = None if moment is None else time.monotonic() + moment
    while True:
        done, status = os.waitpid(child, 0 if deadline is None else os.WNOHANG)
        if done:
            return status
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        time.sleep(0.002)


if __name__ == "__main__":
    main()
