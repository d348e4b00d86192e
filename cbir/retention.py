"""Which releases and tables are cleaned up, and that nothing is which is live, wanted, or still being written."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cbir.errors import ReleaseError
from cbir.index.tables import describe_table, drop_table, list_releases, read_registry
from cbir.params import ReleaseParams
from cbir.params.file import load_section
from cbir.promotion import find_previous
from cbir.registry import WANTED, Registry, Release, open_registry
from cbir.registry.history import GC
from cbir.workspace import locate_gate, locate_index

YOUNG = timedelta(days=1)  # a table or a registration younger than this may be of a retrain that is still running


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One release, or one table without a release: why it goes, and the bytes of its table and of its model."""

    version: str
    table: str | None
    why: str
    table_bytes: int
    model_bytes: int
    release: Release | None = None


def plan_cleaning(workspace: Path, *, keep: int | None, now: datetime) -> list[Removal]:
    """What is beyond the newest ``keep`` releases, ``release.keep`` by default, and is not protected; oldest first.

    Raises:
        ReleaseError: ``keep`` is less than one, or the registry does not answer.
    """
    keep = load_section(workspace / "params.yaml", "release", ReleaseParams).keep if keep is None else keep
    if keep < 1:
        raise ReleaseError("At least one release is kept; give --keep 1 or more.")
    registry, uri = open_registry(workspace), locate_index(workspace)
    releases, tables = registry.list_releases(), _list_own(registry, uri)
    protected = protect_releases(registry, releases, keep=keep, now=now)
    removals = [
        Removal(
            version=release.version,
            table=tables.get(release.version),
            why=f"beyond the newest {keep}",
            table_bytes=describe_table(uri=uri, table=release.table).size if release.version in tables else 0,
            model_bytes=registry.measure_model(release),
            release=release,
        )
        for release in reversed(releases)
        if release.version not in protected
    ]
    return removals + _list_orphans(uri, tables, releases, now=now)


def protect_releases(registry: Registry, releases: Sequence[Release], *, keep: int, now: datetime) -> dict[str, str]:
    """Versions that stay, and why: of several reasons the weightiest.

    Raises:
        ReleaseError: the registry does not answer.
    """
    found = {release.version: f"among the newest {keep}" for release in releases[:keep]}
    for release in releases:
        wanted = release.tags.get(WANTED)
        if wanted and now - datetime.fromisoformat(wanted) < YOUNG:
            found[release.version] = "registered again a short while ago"
        if release.pinned:
            found[release.version] = "pinned"
    try:
        found[find_previous(registry)] = "what a rollback goes back to"
    except ReleaseError:  # nothing is live, was so before, or can be told: then everything that was ever live stays
        found |= {entry["version"]: "was live" for entry in registry.read_history()}
    return found | {version: alias for alias, version in registry.read_aliases().items()}


def clean_up(workspace: Path, removals: Sequence[Removal], *, now: datetime) -> list[Removal]:
    """Remove what was planned, except what an alias has come to name since; return what went.

    A release's table goes first and its version last, so that a clean-up that is killed is finished by the next one.
    """
    registry, uri = open_registry(workspace), locate_index(workspace)
    gone = []
    for removal in removals:
        if removal.version in registry.read_aliases().values():
            continue
        if removal.table:
            drop_table(uri=uri, table=removal.table)
        if removal.release is not None:
            registry.append_log(removal.release, action=GC, reason=removal.why, now=now)
            registry.delete(removal.release)
            shutil.rmtree(locate_gate(workspace, removal.release.key), ignore_errors=True)
        gone.append(removal)
    return gone


def _list_own(registry: Registry, uri: str) -> dict[str, str]:
    """The tables that are not another registry's, by the version of their release.

    Several catalogues may share an index, and a shell without MLFLOW_TRACKING_URI opens a registry that is empty.
    """
    mine = ("", registry.read_mark())
    found = list_releases(uri)
    return {version: table for version, table in found.items() if read_registry(uri=uri, table=table) in mine}


def _list_orphans(uri: str, tables: dict[str, str], releases: Sequence[Release], *, now: datetime) -> list[Removal]:
    """Tables whose release is gone.

    One that is above the newest release stays: it was made since a backup that this registry was restored from, or,
    without a mark, by another registry.
    """
    known = {int(release.version) for release in releases}
    orphans = [
        (version, table, describe_table(uri=uri, table=table))
        for version, table in tables.items()
        if int(version) not in known and int(version) < max(known, default=0)
    ]
    return [
        Removal(version=version, table=table, why="of no release", table_bytes=facts.size, model_bytes=0)
        for version, table, facts in orphans
        if now - facts.written >= YOUNG
    ]
