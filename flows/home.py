"""Where Prefect keeps its things: in the workspace, unless the user has named a server."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import psutil

HOME = ".prefect"  # in the workspace, and in the user's home
PROFILES = "profiles.toml"
OWNER = "CBIR_OPS_PID"  # of the run that a server was started for, which it inherits
SERVER = "prefect.server"
BUILT_IN = {"local": {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}}  # a user's file need not have it


def choose_home(workspace: Path) -> None:
    """Let a run without a server keep its record in the workspace; call it before Prefect is imported.

    Where PREFECT_API_URL or the user's active profile names a server, that profile counts, as it does for the command
    ``prefect``: a home of our own would hide it, and with it the key of the server.
    """
    if not (os.environ.get("PREFECT_API_URL") or find_server(os.environ)):
        os.environ.setdefault("PREFECT_HOME", str(workspace / HOME))
        os.environ[OWNER] = str(os.getpid())
        end_orphans(os.environ["PREFECT_HOME"])


def end_orphans(home: str) -> list[int]:
    """End the servers with this home whose runs were killed, which left them running; return their process ids."""
    left = [process for process in psutil.process_iter(["cmdline"]) if _is_orphan(process, home)]
    for process in left:
        process.terminate()
    psutil.wait_procs(left, timeout=10)
    return [process.pid for process in left]


def _is_orphan(process: psutil.Process, home: str) -> bool:
    if not any(SERVER in part for part in process.info["cmdline"] or ()):
        return False
    try:
        variables = process.environ()
    except psutil.Error:  # another user's, or gone by now
        return False
    owner = variables.get(OWNER, "")
    return variables.get("PREFECT_HOME") == home and owner.isdecimal() and not psutil.pid_exists(int(owner))


def find_server(variables: Mapping[str, str]) -> str | None:
    """URL of the server that the active profile names, or None.

    A file that cannot be read is Prefect's to complain about.
    """
    home = Path(variables.get("PREFECT_HOME") or Path.home() / HOME)
    path = Path(variables.get("PREFECT_PROFILES_PATH") or home / PROFILES)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    active = variables.get("PREFECT_PROFILE") or document.get("active")
    profiles = BUILT_IN | document.get("profiles", {})
    return profiles.get(active, {}).get("PREFECT_API_URL") or None
