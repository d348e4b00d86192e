"""The items of one part of a split that ask and are searched, with what the towers make of them.

Shapes: N items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cbir.copies import ASKED, is_bare, load_copies
from cbir.encoder import Features
from cbir.errors import SplitError
from cbir.features import CACHE, first_captions, load_features, select_rows
from cbir.records import read_relative, read_table, select_items


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Items that ask and are searched.

    ``hashes`` are those of the pictures, equal where every pixel is; ``copies`` are the tower outputs of changed copies
    of the pictures, where there are no words or labels to ask with; ``pairs`` are relative captions as (row of the
    reference, words, row of the target), without those that lead to the very picture that asks.
    """

    ids: Sequence[str]
    cluster_N: np.ndarray
    labels: Sequence[Sequence[str]]
    captions: Sequence[str | None]
    images: Sequence[bytes]
    hashes: Sequence[str]
    features: Features
    copies: Features | None
    pairs: Sequence[tuple[int, str, int]]


def load_gallery(
    ingested: Path, split: Path, *, towers_folder: Path, part: str = "test", cache: Path = CACHE
) -> Gallery:
    """The items of one part of the split, with the tower outputs of the encoder in ``towers_folder``.

    Raises:
        SplitError: the part has fewer than two items.
        WorkspaceError: a file that an earlier stage writes is missing.
        TowerError: there are no towers in the folder.
    """
    table = read_table(split / "split.parquet", made_by="split")
    cluster = dict(zip(table["id"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    ids = table.filter(pc.equal(table["split"], part))["id"].to_pylist()
    items = pa.concat_tables(select_items(ingested, ids, columns=["id", "image", "captions", "labels", "sha256"]))
    if items.num_rows < 2:
        raise SplitError(f"Fewer than two {part} items; import more pictures, or raise split.{part}.")
    return select_gallery(
        items,
        load_features(items, towers_folder=towers_folder, cache=cache),
        np.arange(items.num_rows),
        cluster_N=np.array([cluster[id_] for id_ in items["id"].to_pylist()]),
        ingested=ingested,
        towers_folder=towers_folder,
        cache=cache,
    )


def select_gallery(
    items: pa.Table,
    features: Features,
    rows: np.ndarray,
    *,
    cluster_N: np.ndarray,
    ingested: Path,
    towers_folder: Path,
    cache: Path,
) -> Gallery:
    """The given rows of ``items`` (id, image, captions, labels), their features and clusters, and pairs among them.

    They come in an order that says nothing: of equal scores the first wins, and files often lie sorted by class.
    """
    rows = np.random.default_rng(len(rows)).permutation(rows)
    chosen = items.select(["id", "image", "captions", "labels"]).take(rows)
    copies = None
    if len(rows) and is_bare(chosen):
        copies = load_copies(chosen, seed=ASKED, towers_folder=towers_folder, cache=cache)
    ids, images = chosen["id"].to_pylist(), chosen["image"].to_pylist()
    hashes = [hashlib.sha256(image).hexdigest() for image in images]
    return Gallery(
        ids=ids,
        cluster_N=cluster_N[rows],
        labels=chosen["labels"].to_pylist(),
        captions=first_captions(chosen),
        images=images,
        hashes=hashes,
        features=select_rows(features, rows),
        copies=copies,
        pairs=[pair for pair in read_relative(ingested, ids) if hashes[pair[0]] != hashes[pair[2]]],
    )
