"""How the built index of a release answers, beside exact search over the vectors it was built from.

Shapes: Q queries, N items, L items that a filter leaves, D dimensions.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from cbir.encoder import Encoder
from cbir.features import first_captions
from cbir.gate.evidence import IndexFigures
from cbir.index import Index
from cbir.records import read_items, read_table
from cbir.similarity import compare_vectors, shorten_vectors

K = 10
SHARES = {"50": 0.5, "10": 0.1, "1": 0.01}  # of the rows that a filter leaves, by their name in per cent
ASKED = 50  # queries by words, and as many by an item's own vector
PATIENCE = 600.0  # seconds for a fresh process
EQUAL = 1e-4  # scores closer than this are the same: a tie may be answered either way


def check_index(
    workspace: Path, *, uri: str, table: str, encoder: Encoder, key: str, rng: np.random.Generator
) -> IndexFigures:
    """Ask the table as users will, and compare with exact search over ``data/embedded``.

    Raises:
        IndexError_: the table is not there.
        WorkspaceError: there are no vectors or items.
    """
    vectors = read_table(workspace / "data/embedded/embeddings.parquet", made_by="embed")
    ids = np.array(vectors["id"].to_pylist())
    item_ND = vectors["vector"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
    index = Index.open(uri=uri, table=table)
    items = read_items(workspace / "data/ingested", columns=["captions"])
    texts = [text for text in first_captions(items) if text] or ["a test query"]
    words = [str(text) for text in rng.permutation(texts)[:ASKED]]
    query_QD, latency_ms = _ask(index, encoder, words)
    query_QD = shorten_vectors(query_QD, item_ND.shape[1], index.similarity)
    query_QD = np.concatenate([query_QD, item_ND[rng.permutation(len(ids))[:ASKED]]])
    return IndexFigures(
        rows=index.rows,
        vectors=len(ids),
        fingerprint=index.fingerprint,
        encoder=encoder.fingerprint,
        recall=measure_recall(index, query_QD, ids=ids, item_ND=item_ND, share=1.0),
        filtered={
            name: measure_recall(index, query_QD, ids=ids, item_ND=item_ND, share=share)
            for name, share in SHARES.items()
        },
        latency_ms=latency_ms,
        fault=ask_fresh_process(workspace, key),
    )


def _ask(index: Index, encoder: Encoder, words: list[str]) -> tuple[np.ndarray, float]:
    """Vectors of the queries, and within how many milliseconds 19 of 20 were answered; the first is not counted."""
    vectors, taken = [], []
    for text in [words[0], *words]:
        start = time.perf_counter()
        vector_1D = encoder.encode([None], [text])
        index.search(vector_1D[0], k=K, where=None)
        taken.append(1000 * (time.perf_counter() - start))
        vectors.append(vector_1D)
    return np.concatenate(vectors[1:]), float(np.percentile(taken[1:], 95))


def measure_recall(index: Index, query_QD: np.ndarray, *, ids: np.ndarray, item_ND: np.ndarray, share: float) -> float:
    """Mean recall@10 over the rows that a filter leaves, ``share`` of all; of no rows at least one.

    The filter is a condition that a user could write, on a hash of the id, so that it has nothing to do with what is
    near to what.
    """
    hashes = np.array([hashlib.md5(id_.encode(), usedforsecurity=False).hexdigest() for id_ in ids])
    last = np.sort(hashes)[math.ceil(share * len(ids)) - 1]
    left = hashes <= last
    where = f"md5(id) <= '{last}'" if share < 1 else None
    row, item_LD = {id_: n for n, id_ in enumerate(ids[left])}, item_ND[left]
    k = min(K, len(row))
    found = []
    for query_D in query_QD:
        score_L = compare_vectors(query_D[None], item_LD, index.similarity)[0]
        worst = np.partition(score_L, -k)[-k] - EQUAL
        hits = {hit.id for hit in index.search(query_D, k=k, where=where)}
        found.append(sum(id_ in row and score_L[row[id_]] >= worst for id_ in hits) / k)
    return float(np.mean(found))


def ask_fresh_process(workspace: Path, key: str) -> str:
    """What went wrong when a process that shares nothing with this one loaded the release and asked it; or empty."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cbir.smoke", ".", key],
            cwd=workspace,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return f"a fresh process did not answer within {PATIENCE:.0f} s"
    return "" if done.returncode == 0 else f"a fresh process failed: {' '.join(done.stderr.split())[-500:]}"
