"""How releases compare: what each is, what it scored, and what differs between two."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cbir.index.tables import list_releases
from cbir.params.file import read_document
from cbir.registry import PINNED, Registry, Release, open_registry
from cbir.workspace import locate_index

KEY_METRICS = {  # the figures that a list has room for, mean average precision, by their short names
    "label": "label.fused_both.map",
    "text>image": "text_to_image.fused.map",
    "image>text": "image_to_text.fused.map",
    "relative": "relative_indexed.fused_both.map",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One release as a list shows it."""

    version: str
    aliases: list[str]
    made: datetime
    data_revision: str
    git_commit: str | None
    git_dirty: bool
    fingerprint: str
    run: str
    rows: int | None
    table: str | None
    pinned: str | None
    verdict: str | None
    metrics: dict[str, float]


def list_entries(workspace: Path) -> list[Entry]:
    """Every release, the newest first; ``table`` is None where it is not there."""
    registry = open_registry(workspace)
    tables = list_releases(locate_index(workspace))
    aliases = registry.read_aliases()
    return [_describe(registry, release, aliases, tables) for release in registry.list_releases()]


def describe_release(workspace: Path, name: str) -> dict[str, Any]:
    """One release whole: what a list shows, its params, its history and where its card lies.

    Raises:
        ReleaseError: there is no such release.
    """
    registry = open_registry(workspace)
    release = registry.get_version(name)
    entry = _describe(registry, release, registry.read_aliases(), list_releases(locate_index(workspace)))
    history = [line for line in registry.read_log() if line["version"] == release.version]
    return {**vars(entry), "key": release.key, "encoder": release.encoder_uri, "history": history}


def compare_releases(workspace: Path, first: str, second: str) -> dict[str, Any]:
    """What differs from ``first`` to ``second``: facts, params, and every figure with its difference.

    Raises:
        ReleaseError: there is no such release, or its evidence cannot be had.
    """
    registry = open_registry(workspace)
    before, after = (registry.get_version(name) for name in (first, second))
    facts = {
        name: (getattr(before, name), getattr(after, name)) for name in ("version", "data_revision", "fingerprint")
    } | {name: (before.tags.get(name), after.tags.get(name)) for name in ("git_commit", "rows")}
    old, new = (registry.read_metrics(release) for release in (before, after))
    was, is_ = (_read_params(registry, release) for release in (before, after))
    return {
        "facts": facts,
        "params": {
            name: (was.get(name), is_.get(name)) for name in sorted({*was, *is_}) if was.get(name) != is_.get(name)
        },
        "metrics": {name: (old.get(name), new.get(name)) for name in sorted({*old, *new})},
    }


def _read_params(registry: Registry, release: Release) -> dict[str, Any]:
    """The release's params, each section's keys dotted; a user's own value that is in no section has its own name."""
    document = read_document(registry.fetch_evidence(release, "params.yaml"))
    dotted: dict[str, Any] = {}
    for section, values in document.items():
        dotted |= (
            {f"{section}.{key}": v for key, v in values.items()} if isinstance(values, dict) else {section: values}
        )
    return dotted


def _describe(registry: Registry, release: Release, aliases: dict[str, str], tables: dict[str, str]) -> Entry:
    rows = release.tags.get("rows")
    return Entry(
        version=release.version,
        aliases=sorted(alias for alias, version in aliases.items() if version == release.version),
        made=release.made,
        data_revision=release.data_revision,
        git_commit=release.tags.get("git_commit"),
        git_dirty=release.tags.get("git_dirty") != "false",
        fingerprint=release.fingerprint,
        run=release.run_id,
        rows=int(rows) if rows else None,
        table=tables.get(release.version),
        pinned=release.tags.get(PINNED),
        verdict=release.gate.get("verdict"),
        metrics=registry.read_metrics(release),
    )
