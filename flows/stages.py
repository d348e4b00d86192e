"""How a flow reaches DVC: one command at a time, its lines as they come, another run's lock waited for."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cbir.errors import StageError

STAGES = ("ingest", "validate", "split", "train", "embed", "evaluate")
POINTER, EMBEDDED = Path("data/raw.dvc"), Path("data/embedded/embedded.json")
LOCKED = ("Unable to acquire lock", "is busy, it is being blocked by")
QUIET = {"DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "true", "TQDM_DISABLE": "1"}
LIVE = {"PYTHONUNBUFFERED": "1"}  # or a stage's lines come in blocks
REASONS = ("error: ", "ERROR: ")  # as our stages and DVC begin the reason of a failure
STYLE = re.compile(r"\x1b\[[0-9;]*m")  # of bold or coloured words
ADVICE = ("To track the changes", "git add ", "To enable auto staging", "dvc config core.autostage", "Use `dvc push`")
BAR = "━"  # what is left of a progress bar where there is no terminal


def run_dvc(
    workspace: Path, *arguments: str, say: Callable[[str], None] | None = None, patience: float = 600.0
) -> list[str]:
    """Run one DVC command in ``workspace``, its stages with this interpreter, and return its lines.

    ``say`` gets each line as it comes, up to the reason of a failure, which is the error's to tell. While another
    run holds DVC's lock, wait.

    Raises:
        StageError: it failed, or the lock was held for longer than ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        status, lines = _attempt(workspace, arguments, say or _ignore)
        if status == 0:
            return lines
        locked = any(words in line for line in lines for words in LOCKED)
        if not locked or time.monotonic() > deadline:
            raise StageError(f"`dvc {' '.join(arguments)}` failed: {_pick_reason(lines)}")
        time.sleep(2.0)


def _ignore(line: str) -> None:
    pass


def _attempt(workspace: Path, arguments: tuple[str, ...], say: Callable[[str], None]) -> tuple[int, list[str]]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with _keep_signals() as kept:
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=workspace,
            env=QUIET | os.environ | LIVE | {"PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    lines: list[str] = []
    failing = False
    with process:
        try:
            for number in kept:
                signal.raise_signal(number)
            assert process.stdout is not None
            for line in _drop_noise(process.stdout):
                lines.append(line)
                failing = failing or line.startswith(REASONS)
                if not failing:
                    say(line)
        except BaseException:  # a time-out or a cancelled run must leave neither DVC nor its stage behind
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, lines


@contextmanager
def _keep_signals() -> Iterator[list[int]]:
    """Collect signals instead of acting on them: one that came while a process starts would leave it behind."""
    kept: list[int] = []
    here = threading.current_thread() is threading.main_thread()  # elsewhere none arrives
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if here}
    for number in before:
        signal.signal(number, lambda signum, frame: kept.append(signum))
    try:
        yield kept
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _drop_noise(stream: Iterator[str]) -> Iterator[str]:
    """The lines that say something: no bars, and none of what DVC advises after each stage to a person."""
    for line in stream:
        if line.strip() and BAR not in line and not line.strip().startswith(ADVICE):
            yield STYLE.sub("", line.rstrip())


def _pick_reason(lines: list[str]) -> str:
    """What a stage, or else DVC, gave as its error; the last lines where neither did."""
    stage = next((n for n, line in enumerate(lines) if line.startswith("error: ")), None)
    if stage is None:
        return "\n".join(["", *lines[-15:]])
    end = next((n for n, line in enumerate(lines) if n > stage and line.startswith("ERROR: ")), len(lines))
    return "\n".join(lines[stage:end]).removeprefix("error: ")


def find_changes(workspace: Path) -> list[str]:
    """What DVC finds changed since its stages last ran: names of stages, and of the raw data's pointer."""
    if not (workspace / POINTER).exists():
        return [POINTER.as_posix()]
    lines = run_dvc(workspace, "status", "--json")
    return sorted(json.loads(next(line for line in reversed(lines) if line.startswith("{"))))


def select_stages(changes: Sequence[str]) -> tuple[str, ...]:
    """The stages from the first changed one on; a pointer that changed changes the first.

    Those before are as they were, and DVC, which is a process each time, need not be asked about them.
    """
    places = [STAGES.index(name) if name in STAGES else 0 for name in changes]
    return STAGES[min(places, default=len(STAGES)) :]


def has_remote(workspace: Path) -> bool:
    """Whether DVC knows a place to push to."""
    return bool(run_dvc(workspace, "remote", "list"))


def read_data_revision(workspace: Path) -> str:
    """Hash of the DVC output of the raw data."""
    return str(read_yaml(workspace / POINTER)["outs"][0]["md5"])


def read_rows_revision(workspace: Path) -> str:
    """Hashes of the DVC outputs that the index table is built from."""
    stages = read_yaml(workspace / "dvc.lock")["stages"]
    return ":".join(stages[name]["outs"][0]["md5"] for name in ("ingest", "embed"))


def read_yaml(path: Path) -> Any:
    """Whatever is in one of DVC's files."""
    return yaml.safe_load(path.read_text())
