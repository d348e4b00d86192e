"""How a fusion module is built for two towers, fed with their features, and written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from cbir.encoder import CONFIG, FUSION_ONNX, WEIGHTS, Features, name_inputs
from cbir.fusion import Fusion, FusionConfig, Tokens
from cbir.images import PLAIN, Canvas
from cbir.records import write_json
from cbir.towers.export import export_module
from cbir.towers.shape import GRID_CELLS, TowerShapes


def build_fusion(config: FusionConfig, shapes: TowerShapes, *, dropout: float = 0.0) -> Fusion:
    """A fusion module with the sizes of ``config``, over the summaries of the towers."""
    return Fusion(config, visual=shapes.visual, text=shapes.text, dropout=dropout)


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


def save_fusion(
    fusion: Fusion, config: FusionConfig, shapes: TowerShapes, *, folder: Path, canvas: Canvas = PLAIN
) -> None:
    """Write the weights (safetensors, never a pickle), the sizes, the items' ``canvas``, and what the encoder runs.

    Raises:
        TowerError: the exported fusion disagrees with ``fusion``.
    """
    save_file({name: t.contiguous() for name, t in fusion.state_dict().items()}, folder / WEIGHTS)
    fitted = {"image_size": canvas.size, "background": canvas.background}
    write_json(folder / CONFIG, asdict(config) | fitted)
    short, long = (
        {name: torch.from_numpy(array) for name, array in name_inputs(features).items()}
        for features in (_invent(shapes, rows=3, tokens=4), _invent(shapes, rows=6, tokens=9))
    )
    axes = {name: {0: "batch", 1: "tokens"} for name in ("tokens", "mask")}
    export_module(_Flat(fusion), short, long, folder / FUSION_ONNX, outputs=("vector",), axes=axes)


class _Flat(nn.Module):
    """A fusion whose inputs have no structure, as an exported graph's."""

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        grid: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        has_image: torch.Tensor,
        has_text: torch.Tensor,
    ) -> torch.Tensor:
        seen = Tokens(grid_BGV=grid, text_BTW=tokens, mask_BT=mask, has_image_B=has_image, has_text_B=has_text)
        return self.fusion(image, text, tokens=seen)


def _invent(shapes: TowerShapes, *, rows: int, tokens: int) -> Features:
    """Random rows, by turns of an image, a text, and both."""
    rng = np.random.default_rng(rows)

    def draw(*size: int) -> np.ndarray:
        return rng.standard_normal((rows, *size), dtype=np.float32)

    turn = np.arange(rows) % 3
    text_BR = draw(shapes.text.summary)
    return Features(
        image_BS=draw(shapes.visual.summary),
        text_BR=text_BR,
        captions_BR=text_BR,
        grid_BGV=draw(GRID_CELLS, shapes.visual.width),
        tokens_BTW=draw(tokens, shapes.text.width),
        token_mask_BT=np.ones((rows, tokens), bool),
        has_image_B=turn != 1,
        has_text_B=turn != 0,
    )
