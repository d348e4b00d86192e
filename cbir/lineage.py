"""Where a hit comes from: through the index table and the release back to the source file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from cbir.errors import QueryError, hint_at
from cbir.index import Index
from cbir.outputs import find_cache, list_files
from cbir.records import ITEM_SCHEMA, read_json
from cbir.registry import Registry, Release, open_registry
from cbir.rows import REFRESHED_AT
from cbir.workspace import locate_index

Facts = dict[str, Any]


def trace_item(workspace: Path, id_: str) -> Facts:
    """Everything behind one hit of the live index, from the table down to the file.

    A hit that came by a refresh is traced through it. Of any other, what the stages wrote is read from the DVC cache,
    by the hashes in the release's own ``dvc.lock``: the workspace may have moved on.

    Raises:
        QueryError: the live index has no such item.
        ReleaseError: no release is live, or its evidence cannot be had.
        WorkspaceError: an output is no longer in the DVC cache.
    """
    registry = open_registry(workspace)
    release = registry.get_champion()
    index = Index.open(uri=locate_index(workspace), table=release.table)
    row = index.find(id_)
    if row is None:
        ids = sorted(index.read_ids())
        whole = next((known for known in ids if known.endswith(f"/{id_}")), id_)  # without its source
        hint = hint_at(whole, ids, otherwise="ids are what `cbir-ops query` prints.")
        raise QueryError(f"No item {id_!r} in the live index; {hint}")
    if row.get(REFRESHED_AT):
        return _trace_refreshed(workspace, row, release=release, index=index)
    lock_path = registry.fetch_evidence(release, "dvc.lock")
    outs = read_outs(lock_path)
    cache = find_cache(workspace)
    ingested = _find_ingested(list_files(cache, outs["data/ingested"]), id_)
    return {
        "id": id_,
        "index": {"table": release.table, "version": index.version, "rows": index.rows, "row": row},
        "release": _describe_release(release),
        "dvc_lock": hashlib.sha256(lock_path.read_bytes()).hexdigest(),
        "outputs": outs,
        "source": _describe_source(workspace, ingested),
        "ingested": ingested,
        "validation": _read_validation(registry, release),
        "split": _find_split(list_files(cache, outs["data/split"]), id_),
    }


def _trace_refreshed(workspace: Path, row: Facts, *, release: Release, index: Index) -> Facts:
    """Of a hit that came by a refresh: it went through none of the release's stages but the encoder."""
    return {
        "id": row["id"],
        "index": {"table": release.table, "version": index.version, "rows": index.rows, "row": row},
        "refresh": {"at": row[REFRESHED_AT], "last": json.loads(release.refresh or "{}")},
        "release": _describe_release(release),
        "source": _describe_source(workspace, row),
    }


def read_outs(lock: Path) -> dict[str, str]:
    """Hash of every output in a ``dvc.lock``, by its path."""
    stages = yaml.safe_load(lock.read_text())["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", [])}


def _describe_release(release: Release) -> Facts:
    return {
        "version": release.version,
        "made": release.made.isoformat(),
        "run": release.run_id,
        "fingerprint": release.fingerprint,
        "data_revision": release.data_revision,
        "git_commit": release.tags.get("git_commit"),
        "git_dirty": release.tags.get("git_dirty") != "false",
    }


def _find_ingested(files: dict[str, Path], id_: str) -> Facts:
    """The row as `ingest` wrote it, the picture left out, and which shard it is in."""
    columns = [name for name in ITEM_SCHEMA.names if name != "image"]
    for name in sorted(files):
        if name.startswith("items-"):
            rows = pq.read_table(files[name], columns=columns).to_pylist()
            found = next(((n, row) for n, row in enumerate(rows) if row["id"] == id_), None)
            if found is not None:
                return {"shard": name, "number": found[0]} | found[1]
    raise AssertionError("an indexed item was ingested")


def _describe_source(workspace: Path, ingested: Facts) -> Facts:
    """The source file, its hash when it was ingested, and whether the file that lies there now is the same."""
    path = workspace / "data" / "raw" / ingested["source_path"]
    now = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    state = "missing" if now is None else "unchanged" if now == ingested["sha256"] else "changed since"
    return {"file": f"data/raw/{ingested['source_path']}", "sha256": ingested["sha256"], "now": state}


def _read_validation(registry: Registry, release: Release) -> Facts:
    document = read_json(registry.fetch_evidence(release, "validation.json"))
    held = sum(result["success"] for result in document["results"])
    return {"suite": document["suite"], "success": document["success"], "hold": held, "of": len(document["results"])}


def _find_split(files: dict[str, Path], id_: str) -> Facts:
    rows = pq.read_table(files["split.parquet"]).to_pylist()
    return next({"split": row["split"], "cluster": row["cluster"]} for row in rows if row["id"] == id_)
