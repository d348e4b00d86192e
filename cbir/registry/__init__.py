"""Which releases there are, and which one is live."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from cbir.errors import ReleaseError

CHAMPION = "champion"
RELEASE_KEY = "release_key"
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the model, or its alias
NO_RELEASE = "No release is live; run `cbir-ops demo`, or import pictures and run `cbir-ops retrain`."


@dataclass(frozen=True, kw_only=True)
class Release:
    """An MLflow model version, and what search needs of it."""

    name: str
    version: str
    key: str
    fingerprint: str
    data_revision: str
    encoder_uri: str

    @property
    def table(self) -> str:
        """The index table: a function of the version, so that model and vectors cannot disagree."""
        return f"release_v{self.version}"


class Registry:
    """The model registry of one workspace: SQLite beside it, unless MLFLOW_TRACKING_URI names a server."""

    def __init__(self, workspace: Path, *, name: str) -> None:
        self.name = name
        self._workspace = workspace
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{workspace.resolve() / 'mlflow.db'}")
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._uri = uri

    def register(
        self,
        *,
        encoder: Path,
        fingerprint: str,
        data_revision: str,
        rows_revision: str,
        metrics: Mapping[str, Any],
        files: list[Path],
        now: datetime,
    ) -> Release:
        """Register a release, or return the one with the same encoder, data and rows: done twice, it is there once.

        ``rows_revision`` is a hash of the rows and vectors that its table will hold.
        """
        key = make_key(fingerprint, data_revision, rows_revision)
        existing = self.find(key)
        if existing is not None:
            return existing
        run = self._find_or_create_run(key)
        run_id = run.info.run_id
        stamp = int(now.timestamp() * 1000)
        flat = flatten_metrics(metrics)
        self._client.log_batch(
            run_id,
            metrics=[Metric(_name_metric(name), value, stamp, 0) for name, value in flat.items()],
            params=[Param("fingerprint", fingerprint), Param("data_revision", data_revision)],
        )
        self._client.log_artifacts(run_id, str(encoder), "encoder")
        for file in files:
            self._client.log_artifact(run_id, str(file), "evidence")
        self._client.set_terminated(run_id)
        self._ensure_model()
        version = self._client.create_model_version(
            self.name,
            source=f"{run.info.artifact_uri}/encoder",
            run_id=run_id,
            tags={RELEASE_KEY: key, "fingerprint": fingerprint, "data_revision": data_revision},
        )
        return _read_release(version)

    def find(self, key: str) -> Release | None:
        """The release with this key, or None."""
        found = self._client.search_model_versions(f"name = '{self.name}' and tags.{RELEASE_KEY} = '{key}'")
        return _read_release(found[0]) if found else None

    def find_champion(self) -> Release | None:
        """The release that is live, or None.

        Raises:
            ReleaseError: the registry cannot be reached; that is not a "none".
        """
        try:
            return _read_release(self._client.get_model_version_by_alias(self.name, CHAMPION))
        except MlflowException as error:
            if error.error_code in ABSENT:
                return None
            raise ReleaseError(
                f"The registry {self._uri} does not answer ({error}); see MLFLOW_TRACKING_URI."
            ) from None

    def get_champion(self) -> Release:
        """The release that is live.

        Raises:
            ReleaseError: none is, or the registry cannot be reached.
        """
        champion = self.find_champion()
        if champion is None:
            raise ReleaseError(NO_RELEASE)
        return champion

    def promote(self, release: Release, *, reason: str, now: datetime) -> None:
        """Make ``release`` the champion by one alias move, the only live pointer, then append to the history.

        Done again after a crash between the two, it adds the entry that is missing and nothing else.
        """
        self._client.set_registered_model_alias(self.name, CHAMPION, release.version)
        history = self.read_history()
        if history and history[-1]["version"] == release.version:
            return
        entry = {"version": release.version, "at": now.isoformat(), "by": _name_user(), "why": reason}
        self._client.set_registered_model_tag(self.name, f"history.{len(history):06d}", json.dumps(entry))

    def read_history(self) -> list[dict[str, str]]:
        """What was promoted, oldest first: version, at, by, why."""
        tags = self._client.get_registered_model(self.name).tags
        return [json.loads(tags[name]) for name in sorted(tags) if name.startswith("history.")]

    def download_encoder(self, release: Release) -> Path:
        """Local folder of a release's encoder; downloaded where the artifacts lie elsewhere."""
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=release.encoder_uri, tracking_uri=self._uri))

    def _find_or_create_run(self, key: str) -> Run:
        """The run of this release: the one that a register killed halfway left, or a new one."""
        experiment = self._get_experiment()
        left = self._client.search_runs([experiment], f"tags.{RELEASE_KEY} = '{key}'", max_results=1)
        if left:
            return left[0]
        return self._client.create_run(experiment, run_name=f"release {key[:8]}", tags={RELEASE_KEY: key})

    def _ensure_model(self) -> None:
        try:
            self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code not in ABSENT:
                raise
            self._client.create_registered_model(self.name)

    def _get_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.name)
        if found is not None:
            return found.experiment_id
        local = self._uri.startswith("sqlite:")
        place = (self._workspace.resolve() / "mlartifacts").as_uri() if local else None
        return self._client.create_experiment(self.name, artifact_location=place)


def flatten_metrics(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested metrics as dotted names, e.g. ``label.fused_both.map``."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= flatten_metrics(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = float(value)
    return flat


def _name_user() -> str:
    """Name of whoever runs this, or the number where it has no name, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        return str(os.getuid())


def _name_metric(name: str) -> str:
    """MLflow allows no ``@`` in a metric's name."""
    return name.replace("@", "_at_")


def make_key(*parts: str) -> str:
    """Key of a release: a hash of its encoder's fingerprint, its data revision and its rows revision."""
    return hashlib.sha256(":".join(parts).encode()).hexdigest()[:16]


def _read_release(version: Any) -> Release:
    return Release(
        name=version.name,
        version=str(version.version),
        key=version.tags[RELEASE_KEY],
        fingerprint=version.tags["fingerprint"],
        data_revision=version.tags["data_revision"],
        encoder_uri=version.source,
    )
