"""How images, texts, or both become unit vectors with a trained encoder folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cbir.errors import TowerError
from cbir.fusion import Fusion, FusionConfig, Tokens
from cbir.towers import (
    IMAGE_SUMMARY,
    TEXT_BLOCKS,
    TEXT_ONNX,
    TEXT_SUMMARY,
    TOKENIZER,
    VISUAL_BLOCKS,
    VISUAL_ONNX,
    Towers,
    hash_files,
)

CONFIG = "encoder.json"
WEIGHTS = "fusion.safetensors"


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


def save_fusion(fusion: Fusion, config: FusionConfig, folder: Path) -> None:
    """Write the weights (safetensors, never a pickle) and the sizes of ``fusion``."""
    save_file({name: t.contiguous() for name, t in fusion.state_dict().items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(asdict(config), indent=2, sort_keys=True) + "\n")


def build_fusion(config: FusionConfig, *, dropout: float = 0.0) -> Fusion:
    """A fusion module with the sizes of ``config``, over the default towers' summaries."""
    return Fusion(config, visual_blocks=VISUAL_BLOCKS, text_blocks=TEXT_BLOCKS, dropout=dropout)


class Encoder:
    """A trained encoder, open: frozen towers, fusion and fingerprint."""

    def __init__(self, *, towers: Towers, fusion: Fusion, config: FusionConfig, fingerprint: str) -> None:
        self.towers = towers
        self.fusion = fusion
        self.config = config
        self.fingerprint = fingerprint

    @classmethod
    def load(cls, folder: Path) -> Encoder:
        """Open the encoder in ``folder``.

        Raises:
            TowerError: a file is missing or does not fit.
        """
        if not (folder / CONFIG).exists():
            raise TowerError(f"{folder} holds no encoder; run `dvc repro train`, or `dvc pull`.")
        try:
            config = FusionConfig(**json.loads((folder / CONFIG).read_text()))
            fusion = build_fusion(config)
            fusion.load_state_dict(load_file(folder / WEIGHTS))
        except (TypeError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise TowerError(
                f"The encoder in {folder} was written by another version of cbir-ops ({reason}); "
                "run `cbir-ops retrain`."
            ) from None
        parts = [folder / name for name in (CONFIG, WEIGHTS, VISUAL_ONNX, TEXT_ONNX, TOKENIZER)]
        return cls(towers=Towers(folder), fusion=fusion.eval(), config=config, fingerprint=hash_files(parts)[:16])

    @property
    def dimensions(self) -> int:
        """Length of every vector."""
        return self.config.dimensions

    def encode(
        self, images: Sequence[Image.Image | None], texts: Sequence[str | None], *, batch_size: int = 32
    ) -> np.ndarray:
        """One image, text, or both a row -> unit vectors, float32 (N, D)."""
        parts = [
            self.fuse(
                compute_features(
                    self.towers,
                    images[start : start + batch_size],
                    texts[start : start + batch_size],
                    grid_shape=(self.config.grid_cells, self.config.visual_width),
                    text_width=self.config.text_width,
                )
            )
            for start in range(0, len(images), batch_size)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.dimensions), np.float32)

    def fuse(self, features: Features) -> np.ndarray:
        """Tower outputs -> unit vectors, float32 (B, D)."""
        with torch.inference_mode():
            return run_fusion(self.fusion, features).numpy()


def run_fusion(fusion: Fusion, features: Features) -> torch.Tensor:
    """Run ``fusion`` on ``features`` in float32; gradients follow the caller's mode."""
    image_BS, text_BR = (torch.from_numpy(part).float() for part in (features.image_BS, features.text_BR))
    return fusion(image_BS, text_BR, tokens=make_tokens(features))


def make_tokens(features: Features) -> Tokens:
    """The part of ``features`` that attention looks at, as float32 tensors."""
    return Tokens(
        grid_BGV=torch.from_numpy(features.grid_BGV).float(),
        text_BTW=torch.from_numpy(features.tokens_BTW).float(),
        mask_BT=torch.from_numpy(features.token_mask_BT),
        has_image_B=torch.from_numpy(features.has_image_B),
        has_text_B=torch.from_numpy(features.has_text_B),
    )


def compute_features(
    towers: Towers,
    images: Sequence[Image.Image | None],
    texts: Sequence[str | None],
    *,
    grid_shape: tuple[int, int],
    text_width: int,
) -> Features:
    """Run the towers on what is there in each row; at least one of image and text must be."""
    has_image_B = np.array([image is not None for image in images])
    has_text_B = np.array([bool(text) for text in texts])
    assert (has_image_B | has_text_B).all(), "a row has neither image nor text"
    image_BS = np.zeros((len(images), IMAGE_SUMMARY), np.float32)
    text_BR = np.zeros((len(images), TEXT_SUMMARY), np.float32)
    grid_BGV = np.zeros((len(images), *grid_shape), np.float32)
    if has_image_B.any():
        grid_BGV[has_image_B], image_BS[has_image_B] = towers.see([image for image in images if image is not None])
    tokens_BTW = np.zeros((len(images), 1, text_width), np.float32)
    token_mask_BT = np.zeros((len(images), 1), bool)
    if has_text_B.any():
        states, mask, text_BR[has_text_B] = towers.read([text for text in texts if text])
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
