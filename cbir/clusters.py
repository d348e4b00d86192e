"""Which rows hang together: by an equal key, by nearly equal bits, and so on along the chain.

Shapes: U distinct hashes, E edges, which are pairs of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

PAIRS = 2**22  # that are compared, or kept, at once: some 100 MB


def find_equals(keys: Sequence[str]) -> np.ndarray:
    """Each row with the first one of the same key, int (E, 2)."""
    first: dict[str, int] = {}
    return np.array([(first.setdefault(key, n), n) for n, key in enumerate(keys)], np.int64).reshape(-1, 2)


def parse_hashes(texts: Sequence[str]) -> np.ndarray:
    """Perceptual hashes as they are written, in hexadecimal, as uint64 (N,)."""
    return np.array([int(text, 16) for text in texts], dtype=np.uint64)


def mark_near(hash_N: np.ndarray, other_U: np.ndarray, *, distance: int) -> np.ndarray:
    """Whether each hash has one among the others within ``distance`` bits (uint64 all), bool (N,)."""
    return np.array([(np.bitwise_count(other_U ^ one) <= distance).any() for one in hash_N], dtype=bool)


def find_near(hash_N: np.ndarray, *, distance: int, pairs: int = PAIRS) -> np.ndarray:
    """Edges, int (E, 2), that connect the rows of different hashes (uint64) within ``distance`` bits.

    Of equal hashes the first row stands for all. Memory is bounded by ``pairs``, however many are near.
    """
    hash_U, first_U = np.unique(hash_N, return_index=True)
    edges, start = np.zeros((0, 2), np.int64), 0
    while start < len(hash_U):
        stop = start + max(1, pairs // (len(hash_U) - start))
        bits = np.bitwise_count(hash_U[start:stop, None] ^ hash_U[None, start:])
        near = np.argwhere(bits <= distance) + start
        edges = np.concatenate([edges, near[near[:, 0] < near[:, 1]]])
        if len(edges) > pairs:
            edges = _thin_edges(edges, count=len(hash_U))
        start = stop
    return first_U[edges]


def connect_rows(*edges: np.ndarray, count: int) -> np.ndarray:
    """Number of each row's cluster, int (count,), in order of first appearance."""
    a, b = np.concatenate(edges).T
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(count, count))
    label_N = connected_components(graph, directed=False)[1]
    return np.unique(np.unique(label_N, return_index=True)[1][label_N], return_inverse=True)[1]


def number_twins(texts: Sequence[str | None], pictures: Sequence[str]) -> np.ndarray:
    """Numbers of items, int (N,), equal where the text or the picture's hash is; items without a text share none."""
    told = [text or f"\0{n}" for n, text in enumerate(texts)]
    return connect_rows(find_equals(told), find_equals(pictures), count=len(told))


def number_labels(labels: Sequence[Sequence[str]]) -> np.ndarray:
    """Numbers of items, int (N,), equal where all labels are; one without labels has its own."""
    told = ["\0".join(sorted(row)) or f"\0{n}" for n, row in enumerate(labels)]
    return np.unique(told, return_inverse=True)[1]


def _thin_edges(edges: np.ndarray, *, count: int) -> np.ndarray:
    """As few edges as there are rows, which connect the same."""
    cluster_N = connect_rows(edges, count=count)
    first_N = np.unique(cluster_N, return_index=True)[1][cluster_N]
    return np.stack([first_N, np.arange(count)], axis=1)
