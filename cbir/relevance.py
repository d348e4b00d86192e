"""Which items answer which queries: those that share a sign with the query, unless they are left out of the search.

A sign is a label, a picture's hash, a caption: whatever makes one item as good an answer as another.

Shapes: Q queries (B of one block), N items, S signs that queries have, T those that items have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from cbir.ranks import Qrels, ScoreRows

Wish = tuple[int, str, int]  # row of the reference, words, row of the target


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """Who has which sign, and what each query leaves out; ``link_ST`` says which signs answer which, None: its own."""

    sign_QS: csr_array
    sign_NT: csr_array
    left_out_QN: csr_array
    link_ST: csr_array | None = None

    def judge(self, start: int, stop: int) -> Qrels:
        """What is relevant to the queries from ``start`` to ``stop``, of grade 1."""
        asked_BT = self.sign_QS[start:stop]
        if self.link_ST is not None:
            asked_BT = asked_BT @ self.link_ST
        shared_BN = csr_array((asked_BT @ self.sign_NT.T) > 0) > self.left_out_QN[start:stop]
        shared_BN.eliminate_zeros()
        shared_BN.sort_indices()
        return Qrels(shared_BN.indptr.astype(np.int64), shared_BN.indices.astype(np.int64), np.ones(shared_BN.nnz))

    def leave_out(self, score: ScoreRows) -> ScoreRows:
        """The same scores, but minus infinity for what is left out."""

        def score_others(start: int, stop: int) -> np.ndarray:
            score_BN = score(start, stop)
            score_BN[self.left_out_QN[start:stop].nonzero()] = -np.inf
            return score_BN

        return score_others


def encode_signs(signs: Sequence[Sequence[str]]) -> csr_array:
    """Which item has which sign, 1 where it does; one empty column if there are none."""
    names = {name: n for n, name in enumerate(sorted({name for row in signs for name in row}))}
    pairs = sorted({(n, names[name]) for n, row in enumerate(signs) for name in row})
    row_J, sign_J = np.array(pairs, np.int64).reshape(-1, 2).T
    return csr_array((np.ones(len(pairs)), (row_J, sign_J)), shape=(len(signs), max(len(names), 1)))


def encode_words(captions: Sequence[str | None]) -> csr_array:
    """Which item has which words; those that differ in case alone are the same."""
    return encode_signs([[words.casefold()] if words else [] for words in captions])


def ask_across(asked_NS: csr_array, answer_NT: csr_array, asking_Q: np.ndarray) -> Relevance:
    """Items ask by one modality for the other: what any item has that asks by the same is relevant."""
    nothing_QN = csr_array((len(asking_Q), answer_NT.shape[0]), dtype=bool)
    link_ST = asked_NS.T @ answer_NT
    return Relevance(sign_QS=asked_NS[asking_Q], sign_NT=answer_NT, left_out_QN=nothing_QN, link_ST=link_ST)


def ask_others(sign_NS: csr_array) -> tuple[np.ndarray, Relevance]:
    """Items ask for the others that share a sign; the rows of those that have such others, and what is relevant."""
    shared_S = np.asarray(sign_NS.sum(axis=0)) > 1
    asking_Q = np.flatnonzero(sign_NS @ shared_S)
    own_QN = point_at(asking_Q, sign_NS.shape[0])
    return asking_Q, Relevance(sign_QS=sign_NS[asking_Q], sign_NT=sign_NS, left_out_QN=own_QN)


def ask_changes(wishes: Sequence[Wish], shown_NT: csr_array, *, left_out_QN: csr_array) -> Relevance:
    """Pictures and wishes ask for what shows the same as the target; a wish with several targets, for any of them."""
    target_Q = np.array([target for _, _, target in wishes], np.int64)
    asked_QS = encode_signs([[f"{reference} {words}"] for reference, words, _ in wishes])
    link_ST = asked_QS.T @ shown_NT[target_Q]
    return Relevance(sign_QS=asked_QS, sign_NT=shown_NT, left_out_QN=left_out_QN, link_ST=link_ST)


def point_at(row_Q: np.ndarray, items: int) -> csr_array:
    """One item of each query, bool (Q, N)."""
    return csr_array((np.ones(len(row_Q), bool), (np.arange(len(row_Q)), row_Q)), shape=(len(row_Q), items))
