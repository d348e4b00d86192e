"""A fusion small enough to look into, and rows that it can be given."""

from __future__ import annotations

import numpy as np
from conftest import SHAPES

from cbir.encoder import Features
from cbir.fusion import FusionConfig
from cbir.towers.shape import GRID_CELLS

CONFIG = FusionConfig(
    visual_width=SHAPES.visual.width,
    text_width=SHAPES.text.width,
    grid_cells=GRID_CELLS,
    dimensions=16,
    labels=2,
    words=3,
    kept=2,
    classes=1,
    appearance=12,
    image_landmarks=2,
    text_landmarks=2,
    both_landmarks=2,
    label_shares=(0.3, 1.5),
    appearance_shares=(0.7, 0.4),
    similarity="cosine",
    late={},
)


def blank_features(rows: int) -> Features:
    """Rows with picture and words, of which the towers say nothing."""
    return Features(
        image_BS=np.zeros((rows, SHAPES.visual.summary), np.float32),
        text_BR=np.zeros((rows, SHAPES.text.summary), np.float32),
        captions_BR=np.zeros((rows, SHAPES.text.summary), np.float32),
        grid_BGV=np.zeros((rows, GRID_CELLS, SHAPES.visual.width), np.float32),
        tokens_BTW=np.zeros((rows, 1, SHAPES.text.width), np.float32),
        token_mask_BT=np.ones((rows, 1), bool),
        has_image_B=np.ones(rows, bool),
        has_text_B=np.ones(rows, bool),
    )


def draw_features(rng: np.random.Generator, *, image_BS: np.ndarray, text_BR: np.ndarray) -> Features:
    """Rows with these summaries, and tokens at random; a row whose summary of words is zero has none."""
    spoken_B = text_BR.any(axis=1)
    return Features(
        image_BS=image_BS,
        text_BR=text_BR,
        captions_BR=text_BR,
        grid_BGV=rng.normal(size=(len(image_BS), GRID_CELLS, SHAPES.visual.width)).astype(np.float32),
        tokens_BTW=rng.normal(size=(len(image_BS), 4, SHAPES.text.width)).astype(np.float32),
        token_mask_BT=np.repeat(spoken_B[:, None], 4, axis=1),
        has_image_B=np.ones(len(image_BS), bool),
        has_text_B=spoken_B,
    )
