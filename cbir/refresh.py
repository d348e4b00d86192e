"""How new, changed and deleted items of the raw data reach the live table, by the live encoder, in one commit.

Shapes: N items, B items of a block, D dimensions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from cbir.changes import Changes, check_deleted, find_changes
from cbir.encoder import Encoder
from cbir.errors import IndexError_
from cbir.features import CACHE, iterate_features
from cbir.index import Index
from cbir.known_files import KnownFiles
from cbir.params import IngestParams
from cbir.params.file import load_section
from cbir.records import BLOCK, ITEM_SCHEMA, count_blocks, iterate_items, read_items, select_items
from cbir.registry import Registry, Release, open_registry
from cbir.registry.history import REFRESH
from cbir.rows import fit_rows
from cbir.scratch import make_scratch
from cbir.similarity import shorten_vectors
from cbir.sources import lock_imports
from cbir.workspace import locate_index, lock_table

MOST_DELETED = 0.5
FILES = Path(".cbir/files.parquet")  # in the workspace


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """What a refresh did to the table of release ``version``, and its rows afterwards.

    ``embedded``: pictures that went through the towers. ``refused``: items that cannot be used, with the reason.
    ``unreadable``: items whose file is there and cannot be read, with the reason; what is live of them stays.
    ``unsearchable``: attributes with a value that has no column, or not its type, until the next retrain.
    """

    version: str
    table: str
    added: int
    changed: int
    deleted: int
    unchanged: int
    embedded: int
    rows: int
    refused: list[str]
    unreadable: list[str]
    unsearchable: list[str]


def refresh_table(workspace: Path, *, now: datetime, most_deleted: float = MOST_DELETED) -> Refresh:
    """Bring the live table in step with ``data/raw``; done again, it embeds and commits nothing.

    The pictures are decoded by the params that the release was made with. Before the commit the registry is told how
    many rows there will be, and after it the history; a refresh that was killed between is completed by the next.

    Raises:
        ReleaseError: no release is live, or the registry does not give it.
        SourceError: there is no raw data, it cannot be read, or it lacks more than the share ``most_deleted`` of the
            rows.
        IndexError_: the table is missing, or of another encoder, or another refresh does not end.
    """
    registry = open_registry(workspace)
    table = registry.get_champion().table
    with lock_table(workspace, table):
        release = registry.get_champion()
        if release.table != table:
            raise IndexError_(f"Release {release.version} went live meanwhile; run `cbir-ops refresh` again.")
        index = Index.open(uri=locate_index(workspace), table=table)
        params = load_section(registry.fetch_evidence(release, "params.yaml"), "ingest", IngestParams)
        marks = index.read_marks()
        rows, embedded = pa.table({}), 0
        unsearchable: list[str] = []
        with make_scratch(workspace) as fresh:
            with lock_imports(workspace / "data/raw"):
                files = KnownFiles(workspace / FILES)
                changes = find_changes(workspace / "data/raw", marks, params=params, files=files, fresh=fresh)
            check_deleted(changes, marks, most_deleted=most_deleted)
            if changes.added or changes.changed:
                encoder = registry.download_encoder(release)
                index.add_marks()
                rows, embedded, unsearchable = _make_rows(
                    changes, index, fresh, encoder=encoder, cache=workspace / CACHE, now=now
                )
        if rows.num_rows or changes.deleted:
            _commit(index, rows, changes, registry=registry, release=release, now=now)
        _write_down(registry, release, index)
        index.tidy()
    return Refresh(
        version=release.version,
        table=table,
        added=len(changes.added),
        changed=len(changes.changed),
        deleted=len(changes.deleted),
        unchanged=len(changes.unchanged),
        embedded=embedded,
        rows=index.rows,
        refused=changes.refused,
        unreadable=changes.unreadable,
        unsearchable=unsearchable,
    )


def _make_rows(
    changes: Changes, index: Index, fresh: Path, *, encoder: Path, cache: Path, now: datetime
) -> tuple[pa.Table, int, list[str]]:
    """Rows for the table, how many were embedded for them, and which attributes do not fit."""
    kept = index.read_vectors(changes.alike)
    embedded = _embed(fresh, index, known=set(kept), encoder=encoder, cache=cache)
    parts: list[pa.Table] = []
    unsearchable: set[str] = set()
    for items in iterate_items(fresh, columns=ITEM_SCHEMA.names, rows=BLOCK):
        vectors = [kept[id_] if id_ in kept else embedded[id_] for id_ in items["id"].to_pylist()]
        vector_BD = np.stack(vectors).astype(np.float32)
        rows, left_out = fit_rows(
            items,
            pa.FixedSizeListArray.from_arrays(pa.array(vector_BD.ravel()), vector_BD.shape[1]),
            schema=index.schema,
            refreshed_at=now.isoformat(),
        )
        parts.append(rows)
        unsearchable.update(left_out)
    return pa.concat_tables(parts), len(embedded), sorted(unsearchable)


def _embed(fresh: Path, index: Index, *, known: set[str], encoder: Path, cache: Path) -> dict[str, np.ndarray]:
    """Vectors of the items that are not ``known``, as the stage ``embed`` makes them."""
    loaded = Encoder.load(encoder)
    if loaded.fingerprint != index.fingerprint:
        raise IndexError_(
            f"The live table is of encoder {index.fingerprint}, the release of {loaded.fingerprint}; run "
            "`cbir-ops retrain` to publish it again."
        )
    ids = [id_ for id_ in read_items(fresh, columns=["id"])["id"].to_pylist() if id_ not in known]
    if not ids:
        return {}
    chosen = select_items(fresh, ids, columns=["id", "image", "captions", "sha256"], rows=BLOCK)
    blocks = (block for block in chosen if block.num_rows)
    count = count_blocks(fresh, rows=BLOCK)
    parts = iterate_features(blocks, count=count, towers_folder=encoder, cache=cache, towers=loaded.towers)
    vector_ND = np.concatenate([loaded.fuse(features) for features in parts])
    return dict(zip(ids, shorten_vectors(vector_ND, index.dimensions, loaded.similarity), strict=True))


def _commit(
    index: Index, rows: pa.Table, changes: Changes, *, registry: Registry, release: Release, now: datetime
) -> None:
    """One commit, taken back where the table is then not what was wanted.

    Raises:
        IndexError_: so it was.
    """
    before = index.version
    facts = {"before": index.rows, "rows": len(changes.ids), "version": before, "at": now.isoformat()}
    counts = {name: len(getattr(changes, name)) for name in ("added", "changed", "deleted")}
    registry.record_refresh(release, json.dumps(facts | counts))
    index.merge(rows, delete=changes.deleted)
    if index.rows != len(changes.ids) or index.read_ids() != changes.ids:
        got = index.rows
        index.restore(before)
        raise IndexError_(
            f"Table {release.table} would have {got} rows for {len(changes.ids)} items, and was left as it was; move "
            "it away, then run `cbir-ops retrain`."
        )


def _write_down(registry: Registry, release: Release, index: Index) -> None:
    """Append the last refresh to the history, where it is not there: it may have been killed after its commit."""
    text = registry.get_version(release.version).refresh
    if text is None:
        return
    facts = json.loads(text)
    known = {entry["at"] for entry in registry.read_log() if entry["action"] == REFRESH}
    if index.version > facts["version"] and index.rows == facts["rows"] and facts["at"] not in known:
        why = f"{facts['added']} added, {facts['changed']} changed, {facts['deleted']} deleted"
        registry.append_log(release, action=REFRESH, reason=why, now=datetime.fromisoformat(facts["at"]))
