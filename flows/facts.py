"""What is written down with a release about the files that it was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cbir.git import read_state
from cbir.records import read_json
from cbir.registry.release import DIMENSIONS, ROWS
from flows.stages import EMBEDDED

EVIDENCE = (
    "metrics.json",
    "data/evaluated/statistics.json",
    "data/evaluated/per_query.parquet",
    "data/evaluated/slices.json",
    "data/validated/validation.json",
    "params.yaml",
    "dvc.lock",
)
LONGEST = 500  # characters of the list of changed files


def list_evidence(root: Path) -> list[Path]:
    """Files that are kept with a release; of those that only some evaluations write, what is there."""
    return [root / name for name in EVIDENCE if (root / name).exists()]


def collect_facts(root: Path) -> dict[str, str]:
    """Tags of a release: its rows and their dimensions, the hash of its ``dvc.lock``, and where git stood."""
    state = read_state(root)
    embedded = read_json(root / EMBEDDED)
    facts = {
        ROWS: str(embedded["rows"]),
        DIMENSIONS: str(embedded["dimensions"]),
        "dvc_lock": hashlib.sha256((root / "dvc.lock").read_bytes()).hexdigest(),
        "git_dirty": str(state.dirty).lower(),
    }
    if state.commit:
        facts["git_commit"] = state.commit
    if state.changed:
        facts["git_changed"] = ", ".join(state.changed)[:LONGEST]
    return facts
