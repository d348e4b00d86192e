"""Which folder a command works in, where its index lies, and who writes to a table of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbir.errors import IndexError_, WorkspaceError
from cbir.locks import LOCKS, hold_lock

PATIENCE = 3600.0  # seconds


def find_workspace() -> Path:
    """The nearest folder upward that holds ``dvc.yaml``.

    Raises:
        WorkspaceError: there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").exists():
            return folder
    raise WorkspaceError(f"No dvc.yaml in {here} or above; run inside a cbir-ops workspace.")


def check_writable(workspace: Path) -> None:
    """Refuse what writes, where nothing may be written: the tools below would try for minutes, and say less.

    Raises:
        WorkspaceError: so it is.
    """
    if not os.access(workspace, os.W_OK):
        raise WorkspaceError(f"{workspace} cannot be written to; run in a workspace that you may write to.")


def locate_index(workspace: Path) -> str:
    """Where the index tables lie: CBIR_INDEX_URI, or the folder ``lancedb`` of the workspace.

    A relative path is one of the workspace, so that every process finds the same tables from wherever it is run.
    """
    uri = os.environ.get("CBIR_INDEX_URI") or "lancedb"
    return uri if "://" in uri else str(workspace / uri)


def locate_gate(workspace: Path, key: str) -> Path:
    """Where the gate gathers what it knows of the release with this key."""
    return workspace / ".cbir" / "gate" / key


@contextmanager
def lock_table(workspace: Path, table: str, *, patience: float = PATIENCE) -> Iterator[None]:
    """Be the only one who writes to ``table``.

    Raises:
        IndexError_: another did not end within ``patience`` seconds.
    """
    busy = IndexError_(
        f"Another run has been writing to table {table} for {patience:.0f} s; wait for it to end, then try again."
    )
    with hold_lock(workspace / LOCKS / f"{table}.lock", busy=busy, patience=patience):
        yield
