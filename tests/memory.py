"""How much memory work takes beside that of the pictures it goes through."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from cbir.images import encode_png
from cbir.records import ITEM_SCHEMA, write_table

SIDE = 448  # of a noisy picture, which does not compress
SHARDS, ROWS = 12, 5
_POOLS: list[pa.MemoryPool] = []  # what a pool gave may live on


@cache
def draw_noise() -> bytes:
    """A picture of about 600 KB."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return encode_png(Image.fromarray(pixels))


def list_ids() -> list[str]:
    """Ids of the items that ``write_shards`` writes."""
    return [f"noise/{n}" for n in range(SHARDS * ROWS)]


def write_shards(ingested: Path) -> None:
    """Items whose pictures are large; after others that are there, and in shards of few."""
    for start in range(0, SHARDS * ROWS, ROWS):
        rows = [
            {
                "id": id_,
                "image": draw_noise(),
                "source": "noise",
                "source_path": f"{id_}.png",
                "captions": [],
                "original_captions": [],
                "labels": [],
                "group": id_,
                "attributes": "{}",
            }
            for id_ in list_ids()[start : start + ROWS]
        ]
        table = pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)
        write_table(ingested / f"items-{start + 1:05d}.parquet", table)


def measure_share(work: Callable[[], object]) -> float:
    """The most that Arrow and Python's own objects take in ``work``, as a share of what all the pictures take."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    _POOLS.append(pool)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        work()
        return (pool.max_memory() + tracemalloc.get_traced_memory()[1]) / (SHARDS * ROWS * len(draw_noise()))
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
