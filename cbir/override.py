"""How a person promotes a release that the gate did not let pass, and answers for it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cbir.errors import ReleaseError
from cbir.promotion import check_table
from cbir.registry import open_registry
from cbir.registry.history import OVERRIDE
from cbir.smoke import ask_once
from cbir.workspace import locate_index

REMEDY = 'cbir-ops gate --override --release N --by NAME --reason "..."'


def promote_against_gate(workspace: Path, *, version: str | None, by: str | None, reason: str | None) -> dict[str, str]:
    """Promote a release that was refused, and return the entry of the history: who, why, and what the gate had said.

    Raises:
        ReleaseError: something is not given, there is no such release, or it is live, passed, or was never decided on.
        IndexError_: its table is missing or is not of its encoder; no name makes that right.
        TowerError: its encoder cannot be loaded.
    """
    if not version or not (by or "").strip() or not (reason or "").strip():
        raise ReleaseError(f"An override needs a release, a name and a reason: `{REMEDY}`.")
    registry = open_registry(workspace)
    release = registry.get_version(version)
    champion = registry.find_champion()
    tags = registry.read_gate_tags(release)
    if champion is not None and champion.version == release.version:
        raise ReleaseError(f"Release {release.version} is live already; there is nothing to override.")
    if not tags:
        raise ReleaseError(f"The gate has not decided on release {release.version}; run `cbir-ops retrain` first.")
    if tags["verdict"] == "pass":
        raise ReleaseError(f"Release {release.version} passed the gate; run `cbir-ops retrain`, or roll back to it.")
    check_table(release, uri=locate_index(workspace))
    ask_once(workspace, registry=registry, release=release)
    why = f"override of {tags['verdict']} ({tags.get('reasons', '')}): {(reason or '').strip()}"
    registry.promote(release, reason=why, now=datetime.now(UTC), by=(by or "").strip(), action=OVERRIDE)
    return registry.read_history()[-1]
