"""How well a fusion retrieves the validation items while it trains: that, never the loss, chooses how long.

Shapes: N items, W wishes (relative captions), D dimensions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from cbir.encoder import Features
from cbir.features import keep_modalities, replace_words, select_rows
from cbir.fusing import run_fusion
from cbir.fusion import Fusion
from cbir.metrics import average_precision, encode_labels, hit_at_k, share_labels, sort_relevance
from cbir.objective import VIEWS
from cbir.records import read_relative
from cbir.similarity import compare_vectors
from cbir.towers.run import Towers

BLOCK = 1024  # rows that are embedded at once


class HeldOut:
    """The validation items, and what they ask of one another: words, labels and relative captions."""

    def __init__(self, items: pa.Table, features: Features, *, ingested: Path, towers: Towers) -> None:
        self._features = features
        self._shared_NN = share_labels(encode_labels(items["labels"].to_pylist()))
        pairs = read_relative(ingested, items["id"].to_pylist())
        self._reference_W = np.array([reference for reference, _, _ in pairs], dtype=np.int64)
        self._target_W = np.array([target for _, _, target in pairs], dtype=np.int64)
        self._wishes = (
            replace_words(select_rows(features, self._reference_W), towers, [words for _, words, _ in pairs])
            if pairs
            else None
        )

    def check(self, fusion: Fusion) -> dict[str, float]:
        """Figures from 0 to 1; ``validation``, their mean, chooses the epoch.

        ``hit@10`` is of words to pictures, ``map`` of labels, ``relative`` the mAP of relative captions among items as
        the index holds them, where there are any.
        """
        if len(self._features.has_image_B) < 2:
            return {"hit@10": 0.0, "map": 0.0, "validation": 0.0}
        image_ND, text_ND, both_ND = (part.numpy() for part in embed_views(fusion, self._features).chunk(3))
        asked = self._features.has_text_B
        score = compare_vectors(text_ND[asked], image_ND, fusion.similarity)
        hits = hit_at_k(sort_relevance(score, np.eye(len(image_ND), dtype=bool)[asked]), k=10)
        score = compare_vectors(both_ND, both_ND, fusion.similarity)
        np.fill_diagonal(score, -np.inf)
        some = self._shared_NN.any(1)
        found = sort_relevance(score, self._shared_NN)[some]
        figures = {"hit@10": hits, "map": average_precision(found, total_Q=self._shared_NN[some].sum(1))}
        if self._wishes is not None:
            figures["relative"] = self._check_wishes(fusion, self._wishes, both_ND)
        means = {name: float(values.mean()) if len(values) else 0.0 for name, values in figures.items()}
        return means | {"validation": sum(means.values()) / len(means)}

    def _check_wishes(self, fusion: Fusion, wishes: Features, both_ND: np.ndarray) -> np.ndarray:
        """Average precision of each wish, float (W,); the picture that it changes is no answer."""
        with torch.inference_mode():
            asked_WD = run_fusion(fusion, wishes).numpy()
        score = compare_vectors(asked_WD, both_ND, fusion.similarity)
        score[np.arange(len(score)), self._reference_W] = -np.inf
        found = sort_relevance(score, np.eye(len(both_ND), dtype=bool)[self._target_W])
        return average_precision(found, total_Q=np.ones(len(found)))


def check_copies(fusion: Fusion, copies: Features, pictures: Features) -> dict[str, float]:
    """How well changed copies find their pictures; ``validation`` is the mean of both figures."""
    with torch.inference_mode():
        asked, searched = (run_fusion(fusion, features).numpy() for features in (copies, pictures))
    found = sort_relevance(compare_vectors(asked, searched, fusion.similarity), np.eye(len(searched), dtype=bool))
    precision = average_precision(found, total_Q=np.ones(len(found)))
    means = {"hit@10": float(hit_at_k(found, k=10).mean()), "map": float(precision.mean())}
    return means | {"validation": sum(means.values()) / 2}


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
