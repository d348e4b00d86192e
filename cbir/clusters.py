"""Which rows hang together: by an equal key, and so on along the chain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Edges = list[tuple[int, int]]


def find_equals(keys: Sequence[str]) -> Edges:
    """Each row with the first one of the same key."""
    first: dict[str, int] = {}
    return [(first.setdefault(key, n), n) for n, key in enumerate(keys)]


def connect_rows(edges: Edges, *, count: int) -> np.ndarray:
    """Number of each row's cluster, int (count,), in order of first appearance."""
    a, b = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(count, count))
    label_N = connected_components(graph, directed=False)[1]
    return np.unique(np.unique(label_N, return_index=True)[1][label_N], return_inverse=True)[1]


def number_twins(texts: Sequence[str | None], pictures: Sequence[str]) -> np.ndarray:
    """Numbers of items, int (N,), equal where the text or the picture's hash is; items without a text share none."""
    told = [text or f"\0{n}" for n, text in enumerate(texts)]
    return connect_rows(find_equals(told) + find_equals(pictures), count=len(told))
