"""How every item becomes one vector, in the modalities it has."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from cbir.encoder import Encoder
from cbir.errors import CbirError, ParamsError
from cbir.features import iterate_features
from cbir.params import EmbedParams
from cbir.params.file import load_section
from cbir.records import count_blocks, iterate_items, read_items, replace_folder, write_json, write_table
from cbir.similarity import shorten_vectors

BATCH = 256


def embed(ingested: Path, encoder: Path, out: Path, *, params: EmbedParams) -> int:
    """Write the vector of every item, and return how many there are.

    Tower outputs come from the cache where the same picture, text and towers were seen before.

    Raises:
        WorkspaceError: there are no items.
        TowerError: there is no encoder.
        ParamsError: more dimensions are asked for than the encoder has.
    """
    loaded = Encoder.load(encoder)
    dimensions = params.dimensions or loaded.dimensions
    if dimensions > loaded.dimensions:
        raise ParamsError(
            f"params.yaml: embed.dimensions: the encoder has {loaded.dimensions}; take no more, or raise "
            "train.dimensions."
        )
    blocks = iterate_items(ingested, columns=["image", "captions", "sha256"], rows=BATCH)
    count = count_blocks(ingested, rows=BATCH)
    parts = iterate_features(blocks, count=count, towers_folder=encoder, towers=loaded.towers)
    vectors = [loaded.fuse(features) for features in parts]
    vector_ND = shorten_vectors(np.concatenate(vectors), dimensions, loaded.similarity)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vector_ND.ravel()), dimensions)
    table = pa.table({"id": read_items(ingested, columns=["id"])["id"].combine_chunks(), "vector": column})
    facts = {
        "fingerprint": loaded.fingerprint,
        "similarity": loaded.similarity,
        "dimensions": dimensions,
        "rows": len(vector_ND),
    }
    with replace_folder(out) as folder:
        write_table(folder / "embeddings.parquet", table)
        write_json(folder / "embedded.json", facts)
    return len(vector_ND)


def main() -> None:
    """Run the stage: ``python -m cbir.embed INGESTED ENCODER OUT``."""
    ingested, encoder, out = map(Path, sys.argv[1:4])
    try:
        params = load_section(Path("params.yaml"), "embed", EmbedParams)
        print(f"{embed(ingested, encoder, out, params=params)} vectors")
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
