"""Where the MLflow of a workspace is, and how it is reached."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, cast

from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from cbir.errors import RegistryError
from cbir.registry.artifacts import follow_workspace
from cbir.registry.faults import blame_registry, check_database, find_cause

DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"  # of the embedded MLflow, in the workspace
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # a model or a run; a model's alias


class Tracking:
    """The MLflow of one workspace: SQLite beside it, unless MLFLOW_TRACKING_URI names a server.

    Where it does not answer, every call of ``client`` raises RegistryError.
    """

    def __init__(self, workspace: Path) -> None:
        """Find it; a workspace that was moved finds its artifacts where they are now.

        Raises:
            RegistryError: the workspace's file is no database, or was moved and cannot be written to, or
                MLFLOW_TRACKING_URI is none that MLflow takes.
        """
        root = workspace.resolve()
        own = f"sqlite:///{root / DATABASE}"
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or own
        self._artifacts = (root / ARTIFACTS).as_uri() if self.uri.startswith("sqlite:") else None
        if self.uri == own:
            check_database(root / DATABASE)
            follow_workspace(root / DATABASE, root / ARTIFACTS)
        try:
            client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        except MlflowException as error:
            raise RegistryError(
                f"MLFLOW_TRACKING_URI is {self.uri!r}, where MLflow finds no registry ({find_cause(error)}); give the "
                "address of a server, http://HOST:PORT, or leave it unset for the workspace's own."
            ) from None
        self.client = cast(MlflowClient, _Answering(client, uri=self.uri))

    def find_or_create_experiment(self, name: str) -> str:
        """Id of the experiment ``name``; one that is made keeps its artifacts in the workspace, or on the server."""
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name, self._artifacts))


def find_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """The registered model ``name``, or None."""
    try:
        return client.get_registered_model(name)
    except MlflowException:
        return None


class _Answering:
    """A client of MLflow, of which a call that fails raises RegistryError; that something is absent is an answer."""

    def __init__(self, client: MlflowClient, *, uri: str) -> None:
        self._client, self._uri = client, uri

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return method(*arguments, **options)
            except MlflowException as error:
                if error.error_code in ABSENT:
                    raise
                raise blame_registry(self._uri, error) from None

        return call
