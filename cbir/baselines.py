"""What retrieves without any training of ours: the frozen towers, a colour histogram, BM25.

Shapes: N items, V visual width, W text width, H bins of the histogram.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import bm25s
import numpy as np

from cbir.encoder import Features
from cbir.towers.shape import COLOURS, Blocks, TowerShapes


def pool_towers(features: Features, shapes: TowerShapes) -> dict[str, np.ndarray]:
    """Unit vectors of what the towers say as a whole; the dot product of ``sum`` is the sum of the two cosines."""
    image_NF = _take_whole(features.image_BS, features.has_image_B, shapes.visual.blocks)
    text_NW = _take_whole(features.text_BR, features.has_text_B, shapes.text.blocks)
    return {"image_only": image_NF, "text_only": text_NW, "sum": np.concatenate([image_NF, text_NW], axis=1)}


def _take_whole(summary_NS: np.ndarray, there_N: np.ndarray, blocks: Blocks) -> np.ndarray:
    """The first block of a summary, as unit vectors; zeros where the modality is missing."""
    return normalise(summary_NS[:, : blocks[0][0]].astype(np.float32) * there_N[:, None])


def take_histogram(features: Features) -> np.ndarray:
    """The colour histogram (N, H) as Swain & Ballard 1991; its dot product is the Bhattacharyya coefficient."""
    return features.image_BS[:, -COLOURS:].astype(np.float32) * features.has_image_B[:, None]


def score_captions(captions: Sequence[str | None]) -> Callable[[Sequence[str | None]], np.ndarray]:
    """BM25 of texts as queries against the captions, float32 (B, N); zeros without words.

    Lucene's variant, k1 1.5, b 0.75, English stop words left out (Robertson & Zaragoza 2009; Lù 2024, BM25S).
    """
    words = _split_words(captions)
    index = bm25s.BM25()
    if any(words):
        index.index(words, show_progress=False)

    def score(texts: Sequence[str | None]) -> np.ndarray:
        score_BN = np.zeros((len(texts), len(words)), np.float32)
        for score_N, asked in zip(score_BN, _split_words(texts), strict=True):
            if asked and any(words):
                score_N[:] = index.get_scores(asked)
        return score_BN

    return score


def _split_words(texts: Sequence[str | None]) -> list[list[str]]:
    told = [text or "" for text in texts]
    return list(bm25s.tokenize(told, stopwords="en", return_ids=False, show_progress=False))


def normalise(vector_ND: np.ndarray) -> np.ndarray:
    """Rows as unit vectors; a row of zeros stays one."""
    return vector_ND / np.maximum(np.linalg.norm(vector_ND, axis=1, keepdims=True), 1e-9)
