"""What a release is: an MLflow model version, and what search needs of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

RELEASE_KEY = "release_key"
REFRESHED = "refresh"  # what the last refresh of its table did, JSON; written before its commit
ROWS = "rows"  # of its table as it was published
DIMENSIONS = "dimensions"  # of the vectors in its table; releases of earlier versions do not say
PINNED = "pinned"  # why it is never cleaned up
TOLD = "told"  # the outcome that people were told; releases of earlier versions do not say
NOTHING = "nothing"  # yet
GATE = "gate."  # what the gate decided
VERDICT = "verdict"
DECIDED = {VERDICT, "champion"}  # earlier versions wrote the verdict first, and could be killed before the rest
MODEL = "model"  # folder of a run's artifacts
ENCODER = "artifacts/encoder"  # of a model


@dataclass(frozen=True, kw_only=True)
class Release:
    """An MLflow model version, and what search needs of it; ``tags`` are as they were when it was read."""

    name: str
    version: str
    key: str
    fingerprint: str
    data_revision: str
    encoder_uri: str
    run_id: str
    made: datetime
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def table(self) -> str:
        """The index table: a function of the version, so that model and vectors cannot disagree."""
        return f"release_v{self.version}"

    @property
    def encoder_path(self) -> str:
        """The folder of its encoder among the artifacts of its run."""
        whole = self.encoder_uri.rstrip("/").endswith(f"/{ENCODER}")
        return f"{MODEL}/{ENCODER}" if whole else "encoder"  # as releases were before they were MLflow models

    @property
    def gate(self) -> dict[str, str]:
        """What the gate decided, by the names of its tags without their prefix; empty where it has not decided."""
        found = {name.removeprefix(GATE): value for name, value in self.tags.items() if name.startswith(GATE)}
        return found if found.keys() >= DECIDED else {}

    @property
    def refresh(self) -> str | None:
        """What the last refresh of its table did, or was about to do, as JSON; None where there was none."""
        return self.tags.get(REFRESHED)

    @property
    def dimensions(self) -> int | None:
        """How many dimensions its table's vectors have; None where it does not say, and they are whole."""
        told = self.tags.get(DIMENSIONS)
        return None if told is None else int(told)

    @property
    def pinned(self) -> bool:
        """Whether it is never cleaned up."""
        return PINNED in self.tags

    @property
    def untold(self) -> bool:
        """Whether a run has yet to tell people what came of it."""
        return self.tags.get(TOLD) == NOTHING


def read_release(version: Any) -> Release:
    """The release of MLflow's ``version``."""
    whole = version.source.rstrip("/").endswith("/encoder")  # as releases were before they were MLflow models
    return Release(
        name=version.name,
        version=str(version.version),
        key=version.tags[RELEASE_KEY],
        fingerprint=version.tags["fingerprint"],
        data_revision=version.tags["data_revision"],
        encoder_uri=version.source if whole else f"{version.source}/{ENCODER}",
        run_id=str(version.run_id),
        made=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        tags=dict(version.tags),
    )


def make_key(*parts: str) -> str:
    """Key of a release: a hash of its encoder's fingerprint, its data revision and its rows revision."""
    return hashlib.sha256(":".join(parts).encode()).hexdigest()[:16]
