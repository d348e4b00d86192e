"""Which folder a command works in, and where its index lies."""

from __future__ import annotations

import os
from pathlib import Path

from cbir.errors import WorkspaceError


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


def locate_index(workspace: Path) -> str:
    """Where the index tables lie: CBIR_INDEX_URI, or the folder ``lancedb`` of the workspace."""
    return os.environ.get("CBIR_INDEX_URI", str(workspace / "lancedb"))
