"""How well a fusion retrieves the validation items while it trains: that, never the loss, chooses how long.

Shapes: N items, W wishes (relative captions), D dimensions.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from cbir.clusters import number_twins
from cbir.encoder import Features
from cbir.features import first_captions, keep_modalities, replace_words, select_rows
from cbir.fusing import run_fusion
from cbir.fusion import Fusion
from cbir.objective import VIEWS, encode_labels
from cbir.ranks import JudgeRows, Qrels, ScoreRows, expect_one, leave_out, measure_queries, pack_qrels, score_vectors
from cbir.records import read_relative
from cbir.towers.run import Towers

BLOCK = 1024  # rows that are embedded at once


class HeldOut:
    """The validation items, and what they ask of one another: words, labels and relative captions."""

    def __init__(self, items: pa.Table, features: Features, *, ingested: Path, towers: Towers) -> None:
        self._features = features
        self._label_NL = encode_labels(items["labels"].to_pylist())
        self._twin_N = number_twins(first_captions(items), items["sha256"].to_pylist())
        self._worded_Q = np.flatnonzero(features.has_text_B)
        self._asking_Q = np.flatnonzero(self._label_NL @ (self._label_NL.sum(0) > 1))  # whose labels others have, too
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

        ``hit@10`` is of words to pictures, of which one that is there twice is as good an answer; ``map`` of labels,
        ``relative`` the mAP of relative captions among items as the index holds them, where there are any.
        """
        if len(self._features.has_image_B) < 2:
            return {"hit@10": 0.0, "map": 0.0, "validation": 0.0}
        image_ND, text_ND, both_ND = (part.numpy() for part in embed_views(fusion, self._features).chunk(3))
        worded, asking = self._worded_Q, self._asking_Q
        compare = partial(score_vectors, similarity=fusion.similarity)
        own = leave_out(compare(both_ND[asking], both_ND), asking)
        count = len(image_ND)
        figures = {
            "hit@10": _measure("hit@10", compare(text_ND[worded], image_ND), self._judge_words, len(worded), count),
            "map": _measure("map", own, self._judge_labels, len(asking), count),
        }
        if self._wishes is not None:
            figures["relative"] = self._check_wishes(fusion, self._wishes, both_ND)
        return figures | {"validation": sum(figures.values()) / len(figures)}

    def _judge_words(self, start: int, stop: int) -> Qrels:
        return pack_qrels(self._twin_N[self._worded_Q[start:stop], None] == self._twin_N)

    def _judge_labels(self, start: int, stop: int) -> Qrels:
        asking_B = self._asking_Q[start:stop]
        shared_BN = self._label_NL[asking_B] @ self._label_NL.T > 0
        shared_BN[np.arange(len(asking_B)), asking_B] = False
        return pack_qrels(shared_BN)

    def _check_wishes(self, fusion: Fusion, wishes: Features, both_ND: np.ndarray) -> float:
        """mAP of the wishes; the picture that one changes is no answer to it."""
        with torch.inference_mode():
            asked_WD = run_fusion(fusion, wishes).numpy()
        score = leave_out(score_vectors(asked_WD, both_ND, fusion.similarity), self._reference_W)
        return _measure("map", score, expect_one(self._target_W), len(asked_WD), len(both_ND))


def check_copies(fusion: Fusion, copies: Features, pictures: Features) -> dict[str, float]:
    """How well changed copies find their pictures; ``validation`` is the mean of both figures."""
    with torch.inference_mode():
        asked, searched = (run_fusion(fusion, features).numpy() for features in (copies, pictures))
    score, count = score_vectors(asked, searched, fusion.similarity), len(searched)
    means = {name: _measure(name, score, expect_one(np.arange(count)), count, count) for name in ("hit@10", "map")}
    return means | {"validation": sum(means.values()) / 2}


def _measure(figure: str, score: ScoreRows, judge: JudgeRows, queries: int, items: int) -> float:
    """The mean of a figure; 0 where nothing is asked."""
    if not queries:
        return 0.0
    return float(measure_queries(score, judge, queries=queries, items=items, ks=(10,)).figures[figure].mean())


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
