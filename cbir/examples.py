"""Which queries a person is shown, with what was found first: of each query set the best answered and the worst.

Shapes: Q queries, N items.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cbir.answers import Answers
from cbir.gallery import Gallery
from cbir.query_sets import QuerySet
from cbir.ranks import ScoreRows

SHOWN = 4  # queries of each kind
HITS = 6


def show_queries(gallery: Gallery, query_set: QuerySet, answers: Answers, *, score: ScoreRows) -> dict[str, Any]:
    """The system, and ``best`` and ``worst``: what each query asks with, its average precision, and its first hits.

    ``wanted`` is the first relevant item and its rank, wherever that is.
    """
    picked = pick_queries(answers.figures["map"], answers.cluster_Q)
    return {"system": answers.system} | {
        name: [
            describe_query(gallery, query_set, q)
            | {"average_precision": float(answers.figures["map"][q])}
            | _list_hits(gallery, query_set, q, score)
            for q in queries
        ]
        for name, queries in picked.items()
    }


def pick_queries(value_Q: np.ndarray, cluster_Q: np.ndarray, *, most: int = SHOWN) -> dict[str, list[int]]:
    """The queries of the highest and of the lowest value, one of a cluster, none of them twice."""
    order = np.argsort(-value_Q, kind="stable")
    first = np.sort(np.unique(cluster_Q[order], return_index=True)[1])
    best = order[first][:most]
    last = np.sort(np.unique(cluster_Q[order[::-1]], return_index=True)[1])
    worst = [q for q in order[::-1][last] if q not in best][:most]
    return {"best": best.tolist(), "worst": [int(q) for q in worst]}


def describe_query(gallery: Gallery, query_set: QuerySet, q: int) -> dict[str, Any]:
    """The query's id, the item whose ``picture`` it asks with, and its ``words``; None where it has none."""
    id_ = query_set.ids[q]
    if query_set.name == "label_name":
        return {"query": id_, "picture": None, "words": id_}
    row = int(query_set.asking_Q[q])
    words = gallery.pairs[q][1] if query_set.name.startswith("relative") else gallery.captions[row]
    seen = query_set.name != "text_to_image"
    told = query_set.name not in ("image_to_text", "copy", "duplicate")
    return {"query": id_, "picture": id_ if seen else None, "words": words if told else None}


def _list_hits(gallery: Gallery, query_set: QuerySet, q: int, score: ScoreRows) -> dict[str, Any]:
    score_N = query_set.relevance.leave_out(score)(q, q + 1)[0]
    order_N = np.argsort(-score_N, kind="stable")
    relevant_N = np.isin(order_N, query_set.relevance.judge(q, q + 1).item_J)
    place = int(np.argmax(relevant_N))  # a query has something relevant

    def describe(n: int) -> dict[str, Any]:
        return {"id": gallery.ids[order_N[n]], "score": float(score_N[order_N[n]])}

    first = [n for n in range(min(HITS, len(order_N))) if np.isfinite(score_N[order_N[n]])]
    hits = [describe(n) | {"relevant": bool(relevant_N[n])} for n in first]
    return {"hits": hits, "wanted": describe(place) | {"rank": place + 1}}
