"""Which releases there are, and which one is live."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from cbir.errors import ReleaseError
from cbir.params import ReleaseParams
from cbir.params.file import load_section
from cbir.registry.artifacts import Artifacts
from cbir.registry.history import PROMOTE, Entry, select_moves
from cbir.registry.log import Log, lock_history
from cbir.registry.metric_names import flatten_metrics, name_metric, read_metric_name
from cbir.registry.release import (
    GATE,
    MODEL,
    NOTHING,
    PINNED,
    REFRESHED,
    RELEASE_KEY,
    TOLD,
    VERDICT,
    Release,
    make_key,
    read_release,
)
from cbir.registry.tracking import Tracking, find_model

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "NOTHING",
    "PINNED",
    "WANTED",
    "Registry",
    "Release",
    "flatten_metrics",
    "make_key",
    "open_registry",
]

CHAMPION = "champion"
CHALLENGER = "challenger"
WANTED = "wanted_at"  # when a run last registered what was registered already
NO_RELEASE = "No release is live; run `cbir-ops demo`, or import pictures and run `cbir-ops retrain`."
NONE_PASSED = (
    "No release is live, for the gate let none pass: `cbir-ops gate --explain` says why. Mend what it says and run "
    "`cbir-ops retrain`, or promote one on your own account with `cbir-ops gate --override`."
)


class Registry:
    """The model registry of one workspace: SQLite beside it, unless MLFLOW_TRACKING_URI names a server."""

    def __init__(self, workspace: Path, *, name: str) -> None:
        self.name = name
        self._workspace = workspace
        self._tracking = Tracking(workspace)
        self._client = self._tracking.client
        self._log = Log(self._client, name=name)
        self._artifacts = Artifacts(self._client, uri=self._tracking.uri, workspace=workspace)

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
        facts: Mapping[str, str] | None = None,
    ) -> Release:
        """Register a release, or return the one with the same encoder, data and rows: done twice, it is there once.

        ``rows_revision`` is a hash of the rows and vectors that its table will hold; ``facts`` become tags.
        """
        key = make_key(fingerprint, data_revision, rows_revision)
        existing = self.find(key)
        if existing is not None:
            self._client.set_model_version_tag(self.name, existing.version, WANTED, now.isoformat())
            return existing
        run = self._find_or_create_run(key)
        run_id = run.info.run_id
        stamp = int(now.timestamp() * 1000)
        flat = flatten_metrics(metrics)
        self._client.log_batch(
            run_id,
            metrics=[Metric(name_metric(name), value, stamp, 0) for name, value in flat.items()],
            params=[Param("fingerprint", fingerprint), Param("data_revision", data_revision)],
        )
        self._log_model(run_id, encoder)
        for file in files:
            self._client.log_artifact(run_id, str(file), "evidence")
        self._client.set_terminated(run_id)
        self._ensure_model()
        version = self._client.create_model_version(
            self.name,
            source=f"{run.info.artifact_uri}/{MODEL}",
            run_id=run_id,
            tags={RELEASE_KEY: key, "fingerprint": fingerprint, "data_revision": data_revision} | dict(facts or {}),
        )
        return read_release(version)

    def find(self, key: str) -> Release | None:
        """The release with this key, or None."""
        found = self._client.search_model_versions(f"name = '{self.name}' and tags.{RELEASE_KEY} = '{key}'")
        return read_release(found[0]) if found else None

    def find_champion(self) -> Release | None:
        """The release that is live, or None.

        Raises:
            RegistryError: the registry cannot be reached; that is not a "none".
        """
        return self._find_alias(CHAMPION)

    def get_champion(self) -> Release:
        """The release that is live.

        Raises:
            ReleaseError: none is, or the registry cannot be reached.
        """
        champion = self.find_champion()
        if champion is None:
            raise ReleaseError(NO_RELEASE if not self.list_releases() else NONE_PASSED)
        return champion

    def get_version(self, version: str) -> Release:
        """The release of this number, or that an alias of this name, such as ``champion``, names.

        Raises:
            ReleaseError: there is none, or the registry cannot be reached.
        """
        if version == CHAMPION:
            return self.get_champion()
        number = version if version.isdecimal() else self.read_aliases().get(version)
        found = self.list_releases()
        release = next((one for one in found if one.version == number), None)
        if release is None:
            known = ", ".join(one.version for one in reversed(found)) or "none"
            raise ReleaseError(f"There is no release {version} in the registry; there are: {known}.")
        return release

    def list_releases(self) -> list[Release]:
        """Every release, the newest first.

        Raises:
            RegistryError: the registry cannot be reached.
        """
        found = self._client.search_model_versions(f"name = '{self.name}'")
        releases = [read_release(version) for version in found if RELEASE_KEY in version.tags]
        return sorted(releases, key=lambda release: int(release.version), reverse=True)

    def read_mark(self) -> str:
        """What tells this registry from any other, also one of the same name: it is written into every index table.

        Empty where nothing was ever registered.
        """
        model = find_model(self._client, self.name)
        return f"{self.name} {model.creation_timestamp}" if model else ""

    def read_aliases(self) -> dict[str, str]:
        """Which version each alias names."""
        model = find_model(self._client, self.name)
        return {name: str(version) for name, version in model.aliases.items()} if model else {}

    def read_metrics(self, release: Release) -> dict[str, float]:
        """The figures that a release was registered with, by their names in ``metrics.json``, dotted.

        Empty where its run was deleted.
        """
        try:
            metrics = self._client.get_run(release.run_id).data.metrics
        except MlflowException:
            return {}
        return {read_metric_name(name): value for name, value in metrics.items()}

    def promote(
        self, release: Release, *, reason: str, now: datetime, by: str | None = None, action: str = PROMOTE
    ) -> None:
        """Make ``release`` the champion by one alias move, the only live pointer, then append to the history.

        Done again after a crash between the two, it adds the entry that is missing and nothing else. ``by``: who, where
        it is not whoever runs this.
        """
        with lock_history(self._workspace):
            self._client.set_registered_model_alias(self.name, CHAMPION, release.version)
            if self.read_aliases().get(CHALLENGER) == release.version:
                self._client.delete_registered_model_alias(self.name, CHALLENGER)
            history = self.read_history()
            if not history or history[-1]["version"] != release.version:
                self._log.append(release, action=action, reason=reason, now=now, by=by)

    def name_challenger(self, release: Release) -> None:
        """Let the alias ``challenger`` name the release that is, or was last, before the gate."""
        self._client.set_registered_model_alias(self.name, CHALLENGER, release.version)

    def find_challenger(self) -> Release | None:
        """The release that is, or was last, before the gate; None where the last one went live."""
        version = self.read_aliases().get(CHALLENGER)
        return None if version is None else self.get_version(version)

    def record_gate(self, release: Release, files: list[Path], *, tags: Mapping[str, str]) -> None:
        """Keep a decision with its release: ``files`` as evidence, then ``gate.`` tags, and of these ``verdict`` last.

        Killed on the way, it leaves a release that is not decided on, also where an earlier decision was. A card that
        is there tells of the earlier one: the release has none until it is written anew.
        """
        if f"{GATE}{VERDICT}" in self._client.get_model_version(self.name, release.version).tags:
            self._client.delete_model_version_tag(self.name, release.version, f"{GATE}{VERDICT}")
        self._client.update_model_version(self.name, release.version, "")
        for file in files:
            self._client.log_artifact(release.run_id, str(file), "evidence")
        for name, value in sorted(tags.items(), key=lambda tag: tag[0] == VERDICT):
            self._client.set_model_version_tag(self.name, release.version, f"{GATE}{name}", value)

    def read_gate_tags(self, release: Release) -> dict[str, str]:
        """The ``gate.`` tags of a release as they are now, without their prefix; none where it was not decided on."""
        return read_release(self._client.get_model_version(self.name, release.version)).gate

    def append_log(self, release: Release, *, action: str, reason: str, now: datetime, by: str | None = None) -> None:
        """Write down what was done to a release; nothing is ever taken out again."""
        self._log.append(release, action=action, reason=reason, now=now, by=by)

    def read_history(self) -> list[Entry]:
        """What was made live, oldest first: version, at, by, why, action."""
        return select_moves(self.read_log())

    def read_log(self) -> list[Entry]:
        """Everything that was done to releases, oldest first: version, at, by, why, action."""
        return self._log.read()

    def record_told(self, release: Release, what: str) -> None:
        """Keep with a release which outcome people were told, or ``NOTHING`` where a run has yet to tell them."""
        self._client.set_model_version_tag(self.name, release.version, TOLD, what)

    def pin(self, release: Release, *, reason: str) -> None:
        """Keep a release from being cleaned up."""
        self._client.set_model_version_tag(self.name, release.version, PINNED, reason)

    def unpin(self, release: Release) -> None:
        """Let a release be cleaned up again."""
        self._client.delete_model_version_tag(self.name, release.version, PINNED)

    def record_refresh(self, release: Release, facts: str) -> None:
        """Keep with a release what is about to be done to its table."""
        self._client.set_model_version_tag(self.name, release.version, REFRESHED, facts)

    def log_card(self, release: Release, files: list[Path], *, description: str) -> None:
        """Keep the model card's ``files`` with the release, and show ``description`` on its page."""
        for file in files:
            self._client.log_artifact(release.run_id, str(file))
        self._client.update_model_version(self.name, release.version, description)

    def has_card(self, release: Release) -> bool:
        """Whether its model card was written since it was last decided on."""
        return bool(self._client.get_model_version(self.name, release.version).description)

    def fetch_evidence(self, release: Release, name: str) -> Path:
        """Local path of one file that was registered as evidence.

        Raises:
            ReleaseError: it cannot be had.
        """
        what = f"{name} of release {release.version}"
        return self._artifacts.fetch_file(release.run_id, f"evidence/{name}", what=what)

    def download_encoder(self, release: Release) -> Path:
        """Local folder of a release's encoder; downloaded where the artifacts lie elsewhere.

        Raises:
            ReleaseError: it cannot be had.
        """
        what = f"the encoder of release {release.version}"
        return self._artifacts.fetch_folder(release.run_id, release.encoder_path, what=what)

    def measure_model(self, release: Release) -> int:
        """How many bytes the model of a release takes; its evidence is not counted."""
        return sum(self._artifacts.measure(release.run_id, folder) for folder in (MODEL, "encoder"))

    def delete(self, release: Release) -> None:
        """Delete a release's model and its version; the run stays, with figures, evidence and model card.

        Registered again, the release comes back under a new version.
        """
        for folder in (MODEL, "encoder"):
            self._artifacts.delete(release.run_id, folder)
        self._client.delete_model_version(self.name, release.version)

    def _log_model(self, run_id: str, encoder: Path) -> None:
        """Upload the encoder as an MLflow model.

        Into the run, not as a LoggedModel: done again after a crash, it overwrites itself and leaves no orphan.
        """
        from cbir.registry.package import package_encoder

        with tempfile.TemporaryDirectory() as folder:
            package_encoder(encoder, Path(folder) / MODEL)
            self._client.log_artifacts(run_id, str(Path(folder) / MODEL), MODEL)

    def _find_or_create_run(self, key: str) -> Run:
        """The run of this release: the one that a register killed halfway left, or a new one."""
        experiment = self._tracking.find_or_create_experiment(self.name)
        left = self._client.search_runs([experiment], f"tags.{RELEASE_KEY} = '{key}'", max_results=1)
        if left:
            return left[0]
        return self._client.create_run(experiment, run_name=f"release {key[:8]}", tags={RELEASE_KEY: key})

    def _ensure_model(self) -> None:
        if find_model(self._client, self.name) is None:
            self._client.create_registered_model(self.name)

    def _find_alias(self, alias: str) -> Release | None:
        try:
            return read_release(self._client.get_model_version_by_alias(self.name, alias))
        except MlflowException:
            return None


def open_registry(workspace: Path) -> Registry:
    """The registry of a workspace, by its params.

    Raises:
        ParamsError: the params file is missing or wrong.
        RegistryError: the workspace's file is no database.
    """
    return Registry(workspace, name=load_section(workspace / "params.yaml", "release", ReleaseParams).name)
