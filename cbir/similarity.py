"""How two vectors are compared: one definition for training, evaluation and search. Higher is nearer.

Shapes: Q queries, N items, D dimensions.
"""

from __future__ import annotations

from typing import Any, Literal

Similarity = Literal["cosine", "dot", "euclidean"]


def compare_vectors(query_QD: Any, item_ND: Any, similarity: Similarity) -> Any:
    """Scores (Q, N): the cosine of unit vectors, the dot product, or the squared Euclidean distance, negated.

    Arrays of numpy or tensors of torch.
    """
    product_QN = query_QD @ item_ND.T
    if similarity != "euclidean":
        return product_QN
    query_Q, item_N = ((part**2).sum(1) for part in (query_QD, item_ND))
    return 2 * product_QN - query_Q[:, None] - item_N
