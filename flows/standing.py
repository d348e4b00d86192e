"""How what the stages made stands to what is live: the same, already decided on, or new; and what a run returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task

from cbir.gate_report import OUTCOMES
from cbir.index.tables import holds_release
from cbir.records import read_json, read_quarantine
from cbir.registry import Registry, Release, make_key, open_registry
from cbir.workspace import locate_index
from flows.gate import find_release, make_gate_key
from flows.stages import EMBEDDED, read_data_revision, read_rows_revision


def find_current(root: Path) -> Release | None:
    """The live release, if it is whole and of exactly the data and stages that are in ``root``.

    Anything that a run killed halfway leaves to do makes it None: a release not registered or not promoted, a history
    without its last entry, a table that is not there.
    """
    registry = open_registry(root)
    champion = registry.find_champion()
    if champion is None or champion.key != read_key(root):
        return None
    recorded = [entry["version"] for entry in registry.read_history()][-1:] == [champion.version]
    whole = recorded and holds_release(
        uri=locate_index(root),
        table=champion.table,
        ingested=root / "data/ingested",
        embedded=root / "data/embedded",
    )
    return champion if whole else None


def find_standing(root: Path) -> dict[str, str] | None:
    """The outcome that stands for what is in ``root``: refused or inconclusive against this champion, or live before.

    A decision that hangs on how this machine answered is not one that stands, nor one that a run was killed after,
    before the model card said so.
    """
    registry = open_registry(root)
    champion, release = registry.find_champion(), registry.find(read_key(root))
    if release is None or (champion is not None and champion.version == release.version):
        return None
    if champion is not None and was_left(registry, release):
        return {"outcome": "kept", "candidate": release.version}
    tags = registry.read_gate_tags(release)
    if tags.get("verdict", "pass") == "pass" or tags.get("again") != "False":
        return None
    if tags.get("key") != make_gate_key(root, champion) or not registry.has_card(release):
        return None
    return {"outcome": OUTCOMES[tags["verdict"]], "candidate": release.version, "reasons": tags.get("reasons", "")}


def was_left(registry: Registry, release: Release) -> bool:
    """Whether a release that is not live was, once: no run promotes it again, a person may."""
    return release.version in {entry["version"] for entry in registry.read_history()}


def read_key(root: Path) -> str:
    """Key of the release that the stages' outputs in ``root`` are."""
    fingerprint = read_json(root / EMBEDDED)["fingerprint"]
    return make_key(fingerprint, read_data_revision(root), read_rows_revision(root))


@task(name="compare with the live release", task_run_name="compare with the live release")
def compare_live(workspace: str) -> dict[str, Any] | None:
    """What the flow returns where there is nothing left to do, else None."""
    root = Path(workspace)
    current = find_current(root)
    if current is not None:
        return _summarise(root, {"outcome": "unchanged"})
    standing = find_standing(root)
    return None if standing is None else _summarise(root, standing)


def _summarise(root: Path, outcome: dict[str, str]) -> dict[str, Any]:
    """An outcome, with the version that is live, and the rows and the key of what the stages made."""
    champion = open_registry(root).find_champion()
    return {
        **outcome,
        "version": champion.version if champion else None,
        "rows": read_json(root / EMBEDDED)["rows"],
        "quarantined": read_quarantine(root / "data/ingested").num_rows,
        "key": read_key(root),
    }


@task(name="sum up", task_run_name="sum up")
def summarise_run(workspace: str, outcome: str) -> dict[str, Any]:
    """What the flow returns."""
    root = Path(workspace)
    registry, release = find_release(root, read_key(root))
    if outcome == "promoted":
        return _summarise(root, {"outcome": outcome})
    if outcome == "kept":
        return _summarise(root, {"outcome": outcome, "candidate": release.version})
    reasons = registry.read_gate_tags(release).get("reasons", "")
    return _summarise(root, {"outcome": outcome, "candidate": release.version, "reasons": reasons})
