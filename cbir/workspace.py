"""Which folder a command works in."""

from __future__ import annotations

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
