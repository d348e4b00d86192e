"""How images, texts, or both become unit vectors with a trained encoder folder: ONNX Runtime throughout, no PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image

from cbir.errors import TowerError
from cbir.images import Canvas
from cbir.records import read_json
from cbir.similarity import Similarity, shorten_vectors
from cbir.towers.run import FILES, Towers, hash_files
from cbir.towers.shape import GRID_CELLS

CONFIG = "encoder.json"
WEIGHTS = "fusion.safetensors"
FUSION_ONNX = "fusion.onnx"


@dataclass(frozen=True, kw_only=True)
class Features:
    """Outputs of the frozen towers for some rows; a missing modality has zeros and a false flag.

    Tokens and summaries are float16 or float32, ``token_mask_BT`` bool; their shapes are those of ``cbir.towers``.
    ``captions_BR`` is the mean of the text summaries of all captions of an item, ``text_BR`` the first one's.
    """

    image_BS: np.ndarray
    text_BR: np.ndarray
    captions_BR: np.ndarray
    grid_BGV: np.ndarray
    tokens_BTW: np.ndarray
    token_mask_BT: np.ndarray
    has_image_B: np.ndarray
    has_text_B: np.ndarray


class Encoder:
    """A trained encoder, open: frozen towers, fusion and fingerprint.

    ``reads_words`` is false where it was trained on pictures without captions or labels: what it makes of words says
    nothing. ``canvas`` is what the pictures that it was trained on were fitted into; a query's picture should be, too.
    """

    def __init__(
        self,
        *,
        towers: Towers,
        fusion: ort.InferenceSession,
        similarity: Similarity,
        dimensions: int,
        reads_words: bool,
        canvas: Canvas,
        fingerprint: str,
    ) -> None:
        self.towers = towers
        self.dimensions = dimensions
        self.similarity = similarity
        self.reads_words = reads_words
        self.canvas = canvas
        self.fingerprint = fingerprint
        self._fusion = fusion

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Open the encoder in ``folder``.

        Raises:
            TowerError: a file is missing or does not fit.
        """
        if not (folder / CONFIG).exists():
            raise TowerError(f"{folder} holds no encoder; run `dvc repro train`, or `dvc pull`.")
        for name in (FUSION_ONNX, *FILES):
            if not (folder / name).exists():
                raise TowerError(
                    f"The encoder in {folder} was written by another version of cbir-ops ({name} is missing); "
                    "run `cbir-ops retrain`."
                )
        config = read_json(folder / CONFIG)
        session = ort.InferenceSession(str(folder / FUSION_ONNX), providers=["CPUExecutionProvider"])
        parts = [folder / name for name in (CONFIG, FUSION_ONNX, *FILES)]
        return cls(
            towers=Towers(folder),
            fusion=session,
            similarity=config["similarity"],
            dimensions=config["dimensions"],
            reads_words=config["words"] > 0,
            canvas=read_canvas(folder / CONFIG),
            fingerprint=hash_files(parts)[:16],
        )

    def encode(
        self, images: Sequence[Image.Image | None], texts: Sequence[str | None], *, batch_size: int = 128
    ) -> np.ndarray:
        """One image, text, or both a row -> vectors, float32 (N, D), of unit length for the cosine."""
        parts = [
            self.fuse(
                compute_features(self.towers, images[start : start + batch_size], texts[start : start + batch_size])
            )
            for start in range(0, len(images), batch_size)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.dimensions), np.float32)

    def fuse(self, features: Features) -> np.ndarray:
        """Tower outputs -> vectors, float32 (B, D)."""
        (vector_BD,) = self._fusion.run(None, name_inputs(features))
        return shorten_vectors(np.asarray(vector_BD), self.dimensions, self.similarity)

    def shorten(self, dimensions: int | None) -> Encoder:
        """The same encoder with the first ``dimensions`` of its vectors, as an index may hold them; None for all."""
        shorter = copy.copy(self)
        shorter.dimensions = min(dimensions or self.dimensions, self.dimensions)
        return shorter


def read_canvas(facts: Path) -> Canvas:
    """What pictures were fitted into, by an ``ingest.json`` or an ``encoder.json``; earlier versions did not say."""
    told = read_json(facts) if facts.exists() else {}
    return Canvas(
        size=told.get("image_size", Canvas.size),
        background=told.get("background", Canvas.background),
    )


def name_inputs(features: Features) -> dict[str, np.ndarray]:
    """What the fusion takes in, in its order, as float32 and bool."""
    return {
        "image": features.image_BS.astype(np.float32),
        "text": features.text_BR.astype(np.float32),
        "grid": features.grid_BGV.astype(np.float32),
        "tokens": features.tokens_BTW.astype(np.float32),
        "mask": features.token_mask_BT,
        "has_image": features.has_image_B,
        "has_text": features.has_text_B,
    }


def compute_features(towers: Towers, images: Sequence[Image.Image | None], texts: Sequence[str | None]) -> Features:
    """Run the towers on what is there in each row; at least one of image and text must be."""
    visual, text = towers.shapes.visual, towers.shapes.text
    has_image_B = np.array([image is not None for image in images])
    has_text_B = np.array([bool(words) for words in texts])
    assert (has_image_B | has_text_B).all(), "a row has neither image nor text"
    image_BS = np.zeros((len(images), visual.summary), np.float32)
    text_BR = np.zeros((len(images), text.summary), np.float32)
    grid_BGV = np.zeros((len(images), GRID_CELLS, visual.width), np.float32)
    if has_image_B.any():
        grid_BGV[has_image_B], image_BS[has_image_B] = towers.see([image for image in images if image is not None])
    tokens_BTW = np.zeros((len(images), 1, text.width), np.float32)
    token_mask_BT = np.zeros((len(images), 1), bool)
    if has_text_B.any():
        states, mask, text_BR[has_text_B] = towers.read([words for words in texts if words])
        tokens_BTW = np.zeros((len(images), *states.shape[1:]), np.float32)
        token_mask_BT = np.zeros(tokens_BTW.shape[:2], bool)
        tokens_BTW[has_text_B], token_mask_BT[has_text_B] = states, mask
    return Features(
        image_BS=image_BS,
        text_BR=text_BR,
        captions_BR=text_BR.copy(),
        grid_BGV=grid_BGV,
        tokens_BTW=tokens_BTW,
        token_mask_BT=token_mask_BT,
        has_image_B=has_image_B,
        has_text_B=has_text_B,
    )
