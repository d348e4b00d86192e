"""How well the encoder retrieves on test items, beside image only, text only and the plain sum of its towers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cbir.encoder import Encoder
from cbir.errors import CbirError
from cbir.gallery import load_gallery
from cbir.golden import read_golden
from cbir.params import EvaluateParams
from cbir.params.file import load_section
from cbir.query_sets import measure_golden
from cbir.ranks import score_vectors
from cbir.records import read_items, read_table, write_json
from cbir.scoreboard import Metrics, Scoreboard, score_gallery, write_scores
from cbir.slices import COLUMNS

SHOWN = 6  # first hits of a golden query


def evaluate(
    ingested: Path,
    split: Path,
    encoder: Path,
    *,
    embedded: Path,
    golden: Path,
    out: Path,
    metrics: Path,
    params: EvaluateParams,
) -> Metrics:
    """Score retrieval on the test items, and the golden queries on all items as the index will hold them.

    Vectors have as many dimensions as ``embedded`` has.

    Writes ``metrics``, and into ``out`` intervals and comparisons, slices, per-query results and curves.

    Raises:
        SplitError: fewer than two items to test on.
        GoldenError: the golden queries are malformed, or name what is not there.
        ParamsError: a slice names an attribute that no item has.
        TrainingError: the encoder's scores are not numbers.
        WorkspaceError: a file that an earlier stage writes is missing.
    """
    indexed = read_table(embedded / "embeddings.parquet", made_by="embed")
    loaded = Encoder.load(encoder).shorten(indexed["vector"].type.list_size)
    gallery = load_gallery(ingested, split, towers_folder=encoder)
    board = Scoreboard(params)
    score_gallery(board, loaded, gallery)
    hits = _score_golden(board, loaded, indexed, golden=golden)
    board.summary["counts"] = {"test_items": len(gallery.ids), "items": indexed.num_rows}
    items = read_items(ingested, columns=COLUMNS)
    tested = items.filter(pc.is_in(items["id"], pa.array(gallery.ids)))
    write_scores(board, out, slices=board.slice(tested), golden=hits)
    write_json(metrics, board.summary)
    return board.summary


def _score_golden(board: Scoreboard, encoder: Encoder, indexed: pa.Table, *, golden: Path) -> list[Metrics]:
    """The user's own queries over every item, trained on or not, as the index will hold it; the first hits of each."""
    ids = indexed["id"].to_pylist()
    queries = read_golden(golden, ids, canvas=encoder.canvas)
    if not queries.ids:
        return []
    item_ND = indexed["vector"].combine_chunks().flatten().to_numpy().reshape(indexed.num_rows, -1)
    score = score_vectors(encoder.encode(queries.images, queries.texts), item_ND, encoder.similarity)
    answers = measure_golden(queries, score, ks=board.params.k)
    board.add(answers)
    shown = []
    for q in range(len(queries.ids)):
        score_N = score(q, q + 1)[0]
        first = np.argsort(-score_N, kind="stable")[:SHOWN]
        hits = [{"id": ids[n], "score": float(score_N[n]), "grade": int(queries.grade_QN[q, n])} for n in first]
        asked = {"query": queries.ids[q], "text": queries.texts[q], "image": queries.files[q]}
        shown.append(asked | {"average_precision": float(answers.figures["map"][q]), "hits": hits})
    return shown


def main() -> None:
    """Run the stage: ``python -m cbir.evaluate INGESTED SPLIT ENCODER EMBEDDED GOLDEN OUT METRICS``."""
    ingested, split, encoder, embedded, golden, out, metrics = map(Path, sys.argv[1:8])
    try:
        params = load_section(Path("params.yaml"), "evaluate", EvaluateParams)
        evaluate(ingested, split, encoder, embedded=embedded, golden=golden, out=out, metrics=metrics, params=params)
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
