"""The log of a registry: everything that was done to releases, as tags of the registered model."""

from __future__ import annotations

import getpass
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlflow.tracking import MlflowClient

from cbir.errors import RegistryError
from cbir.locks import LOCKS, hold_lock
from cbir.registry.history import Entry, read_action
from cbir.registry.release import Release
from cbir.registry.tracking import find_model

LOCK = LOCKS / "history.lock"
PATIENCE = 60.0  # seconds; an entry takes a fraction of one
PREFIX = "history."  # of a tag: then microseconds since 1970 and a mark; in earlier versions a running number
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Place = tuple[int, str]  # of an entry in the log


class Log:
    """The entries of the registered model ``name``; nothing is ever taken out again."""

    def __init__(self, client: MlflowClient, *, name: str) -> None:
        self._client, self._name = client, name

    def append(self, release: Release, *, action: str, reason: str, now: datetime, by: str | None = None) -> None:
        """Write down what was done to a release, after everything that is there.

        Machines that share the registry may do so at once: each entry has a tag of its own, whatever the others read.
        ``by``: who, where it is not whoever runs this.
        """
        entry = {
            "version": release.version,
            "at": now.isoformat(),
            "by": by or _name_user(),
            "why": reason,
            "action": action,
        }
        self._client.set_registered_model_tag(self._name, _make_key(self._read_tags(), now=now), json.dumps(entry))

    def read(self) -> list[Entry]:
        """Every entry, oldest first: version, at, by, why, action."""
        tags = self._read_tags()
        entries: list[Entry] = [json.loads(tags[place]) for place in sorted(tags)]
        return [entry | {"action": read_action(entry)} for entry in entries]

    def _read_tags(self) -> dict[Place, str]:
        model = find_model(self._client, self._name)
        tags = model.tags.items() if model else ()
        return {_read_place(key): value for key, value in tags if key.startswith(PREFIX)}


@contextmanager
def lock_history(workspace: Path, *, patience: float = PATIENCE) -> Iterator[None]:
    """Be the only process of this workspace that moves the alias and writes that down.

    Raises:
        RegistryError: another did not end within ``patience`` seconds.
    """
    busy = RegistryError(
        f"Another command has been writing to the history of releases for {patience:.0f} s ({workspace / LOCK}); "
        "wait for it, or stop it, then try again."
    )
    with hold_lock(workspace / LOCK, busy=busy, patience=patience):
        yield


def _make_key(tags: Mapping[Place, str], *, now: datetime) -> str:
    """A key behind those of ``tags``, also where the clock of another machine is ahead of ours."""
    last = max((stamp for stamp, _ in tags), default=0)
    stamp = max((now - EPOCH) // timedelta(microseconds=1), last + 1)
    return f"{PREFIX}{stamp:016d}-{uuid.uuid4().hex[:8]}"  # no seed may make two machines' marks equal


def _read_place(key: str) -> Place:
    """The running numbers of earlier versions are far below any time."""
    stamp, _, mark = key.removeprefix(PREFIX).partition("-")
    return int(stamp), mark


def _name_user() -> str:
    """Name of whoever runs this, or the number where it has no name, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        return str(os.getuid())
