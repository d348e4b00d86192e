"""How two vectors are compared: one definition for training, evaluation and search. Higher is nearer.

Shapes: Q queries, N items, D dimensions.
"""

from __future__ import annotations

from typing import Literal, TypeVar

Similarity = Literal["cosine", "dot", "euclidean"]
Array = TypeVar("Array")  # numpy's or torch's


def compare_vectors(query_QD: Array, item_ND: Array, similarity: Similarity) -> Array:
    """Scores (Q, N): the cosine of unit vectors, the dot product, or the squared Euclidean distance, negated."""
    product_QN = query_QD @ item_ND.T  # type: ignore[attr-defined, operator]
    if similarity != "euclidean":
        return product_QN
    query_Q, item_N = ((part**2).sum(1) for part in (query_QD, item_ND))
    return 2 * product_QN - query_Q[:, None] - item_N
