"""Where the files of a release lie, and how they get here."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking import MlflowClient

from cbir.errors import RegistryError, ReleaseError

DOWNLOADS = Path(".cbir/downloads")  # in the workspace, a folder for each run
PLACES = (("runs", "artifact_uri"), ("model_versions", "source"), ("experiments", "artifact_location"))  # of MLflow 3


class Artifacts:
    """The files of a registry's runs: read in place on this machine, downloaded once from elsewhere."""

    def __init__(self, client: MlflowClient, *, uri: str, workspace: Path) -> None:
        self._client = client
        self._uri = uri
        self._downloads = workspace / DOWNLOADS

    def fetch_folder(self, run_id: str, path: str, *, what: str) -> Path:
        """Local folder of artifacts that never change; those of another machine are downloaded once.

        Raises:
            ReleaseError: it cannot be had; ``what`` names it.
        """
        kept = self._downloads / run_id / path
        return kept if kept.is_dir() else self._fetch(run_id, path, kept, what=what)

    def fetch_file(self, run_id: str, path: str, *, what: str) -> Path:
        """Local path of a file that may change, as it is now.

        Raises:
            ReleaseError: it cannot be had; ``what`` names it.
        """
        return self._fetch(run_id, path, self._downloads / run_id / path, what=what)

    def _fetch(self, run_id: str, path: str, kept: Path, *, what: str) -> Path:
        try:
            repository: Any = self._open(run_id)
            if isinstance(repository, LocalArtifactRepository):
                return Path(repository.get_local_path(path))
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".part-", dir=kept.parent) as beside:
                _put(Path(repository.download_artifacts(path, dst_path=beside)), kept)
            return kept
        except (MlflowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ReleaseError(
                f"The registry cannot give {what} ({reason}); restore {path} of the MLflow run {run_id} from a backup, "
                "or leave this release: `cbir-ops releases list`, and where it is live `cbir-ops releases rollback`."
            ) from None

    def measure(self, run_id: str, path: str) -> int:
        """How many bytes the files under ``path`` take."""
        return sum(self._walk_sizes(run_id, path))

    def _walk_sizes(self, run_id: str, path: str) -> Iterator[int]:
        for entry in self._client.list_artifacts(run_id, path):
            if entry.is_dir:
                yield from self._walk_sizes(run_id, entry.path)
            else:
                yield entry.file_size or 0

    def delete(self, run_id: str, path: str) -> None:
        """Delete the files under ``path``, and what was downloaded of the run."""
        if self._client.list_artifacts(run_id, path):
            self._open(run_id).delete_artifacts(path)
        shutil.rmtree(self._downloads / run_id, ignore_errors=True)

    def _open(self, run_id: str) -> Any:
        return get_artifact_repository(self._client.get_run(run_id).info.artifact_uri, tracking_uri=self._uri)


def _put(downloaded: Path, kept: Path) -> None:
    """Move a whole download to its place; a folder that another process put there first is as good."""
    try:
        os.replace(downloaded, kept)
    except OSError:
        if not kept.is_dir():
            raise


def follow_workspace(database: Path, artifacts: Path) -> None:
    """Let the database of a workspace that was moved or copied name the ``artifacts`` that lie beside it now.

    MLflow keeps absolute paths, so the releases of a moved workspace could not be loaded, and a copy would write into
    the workspace that it was copied from.

    Raises:
        RegistryError: the database of one that was moved or copied cannot be written to.
    """
    if not (database.exists() and artifacts.is_dir()):
        return
    try:
        _rename_artifacts(database, artifacts)
    except sqlite3.OperationalError as error:
        raise RegistryError(
            f"{database} was moved or copied here and has to be told so, but cannot be written to ({error}); let "
            "yourself write to it, and run any command once."
        ) from None


def _rename_artifacts(database: Path, artifacts: Path) -> None:
    own = artifacts.as_uri()
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return
        rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (before,) in rows:
            if before != own and _lie_here(connection, before, artifacts):
                for table, column in PLACES:
                    change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                    connection.execute(change, (own, len(before) + 1, len(before), before))


def _lie_here(connection: sqlite3.Connection, before: str, artifacts: Path) -> bool:
    """Whether what the database says lies in ``before`` lies in ``artifacts``: the files of its first run do."""
    query = "SELECT substr(artifact_uri, ?) FROM runs WHERE substr(artifact_uri, 1, ?) = ? ORDER BY start_time LIMIT 1"
    found = connection.execute(query, (len(before) + 2, len(before) + 1, f"{before}/")).fetchone()
    return before.startswith("file:") and found is not None and (artifacts / found[0]).exists()
