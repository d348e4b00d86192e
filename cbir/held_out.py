"""How well a fusion retrieves the validation items while it trains: that, never the loss, chooses how long.

Shapes: N items, W wishes (relative captions), D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from cbir.encoder import Features
from cbir.features import first_captions, keep_modalities, replace_words, select_rows
from cbir.fusing import run_fusion
from cbir.fusion import Fusion
from cbir.objective import VIEWS
from cbir.ranks import ScoreRows, measure_queries, score_vectors
from cbir.records import read_relative
from cbir.relevance import Relevance, ask_across, ask_changes, ask_others, encode_signs, encode_words, point_at
from cbir.towers.run import Towers

BLOCK = 1024  # rows that are embedded at once


class HeldOut:
    """The validation items, and what they ask of one another: words, labels and relative captions."""

    def __init__(self, items: pa.Table, features: Features, *, ingested: Path, towers: Towers) -> None:
        self._features = features
        pictures, words = items["sha256"].to_pylist(), first_captions(items)
        self._worded_Q = np.flatnonzero(features.has_text_B)
        picture_NP = encode_signs([[one] for one in pictures])
        self._named = ask_across(encode_words(words), picture_NP, self._worded_Q)
        self._labelled_Q, self._labelled = ask_others(encode_signs(items["labels"].to_pylist()))
        pairs = read_relative(ingested, items["id"].to_pylist())
        reference_W = np.array([reference for reference, _, _ in pairs], dtype=np.int64)
        self._changed = ask_changes(
            pairs,
            encode_signs([[f"{one} {told}"] for one, told in zip(pictures, words, strict=True)]),
            left_out_QN=point_at(reference_W, len(pictures)),
        )
        self._wishes = (
            replace_words(select_rows(features, reference_W), towers, [words for _, words, _ in pairs])
            if pairs
            else None
        )

    def check(self, fusion: Fusion) -> dict[str, float]:
        """Figures from 0 to 1; ``validation``, their mean, chooses the epoch.

        ``hit@10`` is of words to pictures, ``map`` of labels, ``relative`` the mAP of relative captions among items as
        the index holds them, where there are any. What is relevant is what is so in the evaluation.
        """
        if len(self._features.has_image_B) < 2:
            return {"hit@10": 0.0, "map": 0.0, "validation": 0.0}
        image_ND, text_ND, both_ND = (part.numpy() for part in embed_views(fusion, self._features).chunk(3))
        compare = partial(score_vectors, similarity=fusion.similarity)
        named, labelled = compare(text_ND[self._worded_Q], image_ND), compare(both_ND[self._labelled_Q], both_ND)
        figures = {
            "hit@10": _measure("hit@10", named, self._named),
            "map": _measure("map", labelled, self._labelled),
        }
        if self._wishes is not None:
            with torch.inference_mode():
                asked_WD = run_fusion(fusion, self._wishes).numpy()
            figures["relative"] = _measure("map", compare(asked_WD, both_ND), self._changed)
        return figures | {"validation": sum(figures.values()) / len(figures)}


def check_copies(fusion: Fusion, copies: Features, pictures: Features, *, hashes: Sequence[str]) -> dict[str, float]:
    """How well changed copies find their pictures; ``validation`` is the mean of both figures."""
    with torch.inference_mode():
        asked, searched = (run_fusion(fusion, features).numpy() for features in (copies, pictures))
    picture_NP = encode_signs([[one] for one in hashes])
    own = ask_across(picture_NP, picture_NP, np.arange(len(hashes)))
    means = {name: _measure(name, score_vectors(asked, searched, fusion.similarity), own) for name in ("hit@10", "map")}
    return means | {"validation": sum(means.values()) / 2}


def _measure(figure: str, score: ScoreRows, relevance: Relevance) -> float:
    """The mean of a figure; 0 where nothing is asked."""
    queries, items = relevance.left_out_QN.shape
    if not queries:
        return 0.0
    measured = measure_queries(relevance.leave_out(score), relevance.judge, queries=queries, items=items, ks=(10,))
    return float(measured.figures[figure].mean())


def embed_views(fusion: Fusion, features: Features) -> torch.Tensor:
    """Vectors by the image, by the text and by both, one below the other (3 N, D)."""
    count = len(features.has_image_B)
    cuts = [np.arange(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    with torch.inference_mode():
        return torch.cat(
            [
                run_fusion(fusion, keep_modalities(select_rows(features, cut), image=image, text=text))
                for image, text in VIEWS
                for cut in cuts
            ]
        )
