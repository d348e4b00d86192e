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
from cbir.encoder import Encoder, Features
from cbir.features import keep_modalities
from cbir.fusing import build_fusion, make_tokens, run_fusion, save_fusion
from cbir.fusion import Fusion, FusionConfig, Tokens
from cbir.images import encode_png, load_query_image
from cbir.losses import info_nce
from cbir.params import TowerParams
from cbir.towers.export import export_towers
from cbir.towers.run import Towers, normalise_pixels, open_tokenizer
from cbir.towers.shape import GRID_CELLS, TowerShapes
from cbir.towers.text import build_text
from cbir.towers.visual import build_visual

IMAGES, SIDE = 64, 224
BATCH, TOKENS = 256, 16
TEMPERATURE = 0.07


def measure_embedding() -> list[list[str]]:
    """Files to vectors: by the exported encoder, and by the modules that it was exported from."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        visual, text = build_visual(TowerParams()), build_text(TowerParams(), captions=[])
        export_towers(visual, text, folder)
        fusion, config = _build(Towers(folder).shapes)
        save_fusion(fusion, config, Towers(folder).shapes, folder=folder)
        encoder = Encoder.load(folder)
        files, words = _draw_files(folder), [f"a picture of number {n}, drawn at random" for n in range(IMAGES)]
        tokenizer = open_tokenizer(folder, max_tokens=encoder.towers.shapes.text.max_tokens)

        def run_eager() -> np.ndarray:
            pixels = [normalise_pixels(load_query_image(file), encoder.towers.shapes.visual) for file in files]
            encodings = tokenizer.encode_batch(words)
            ids, mask = (torch.tensor([getattr(e, name) for e in encodings]) for name in ("ids", "attention_mask"))
            there = torch.ones(IMAGES, dtype=torch.bool)
            with torch.inference_mode():
                grid_BGV, image_BS = visual(torch.from_numpy(np.stack(pixels)))
                text_BTW, text_BR = text(ids, mask)
                tokens = Tokens(
                    grid_BGV=grid_BGV, text_BTW=text_BTW, mask_BT=mask.bool(), has_image_B=there, has_text_B=there
                )
                return fusion(image_BS, text_BR, tokens=tokens).numpy()

        def run_ours() -> np.ndarray:
            return encoder.encode([load_query_image(file) for file in files], words)

        np.testing.assert_allclose(run_ours(), run_eager(), atol=1e-3)
        ours, theirs = time_call(run_ours), time_call(run_eager)
    how = f"{IMAGES} random PNG files of {SIDE} x {SIDE} pixels with captions to vectors, equal to 1e-3; batches of 32"
    return [
        ["embedding", format_rate(ours, images=IMAGES), f"eager PyTorch: {format_rate(theirs, images=IMAGES)}", how]
    ]


def _draw_files(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    files = [folder / f"{n}.png" for n in range(IMAGES)]
    for file in files:
        file.write_bytes(encode_png(Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))))
    return files


def measure_step() -> list[list[str]]:
    """One optimiser step over three views, through ``Features`` and our losses, and by hand on ready tensors."""
    shapes = _measure_shapes()
    features = _invent_features(shapes)
    code_B = torch.arange(BATCH)
    (ours_model, _), (bare_model, _) = _build(shapes), _build(shapes)
    ours_optimiser, bare_optimiser = (
        torch.optim.AdamW(model.parameters(), lr=1e-4) for model in (ours_model, bare_model)
    )
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
        loss = torch.stack([info_nce(a, b, code_B=code_B, temperature=TEMPERATURE) for a, b in pairs]).sum() / 3
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


def _measure_shapes() -> TowerShapes:
    visual, text = build_visual(TowerParams()), build_text(TowerParams(), captions=[])
    return TowerShapes(visual=visual.measure(), text=text.measure())


def _invent_features(shapes: TowerShapes) -> Features:
    rng = np.random.default_rng(0)
    return Features(
        image_BS=rng.normal(size=(BATCH, shapes.visual.summary)).astype(np.float16),
        text_BR=rng.normal(size=(BATCH, shapes.text.summary)).astype(np.float16),
        captions_BR=rng.normal(size=(BATCH, shapes.text.summary)).astype(np.float16),
        grid_BGV=rng.normal(size=(BATCH, GRID_CELLS, shapes.visual.width)).astype(np.float16),
        tokens_BTW=rng.normal(size=(BATCH, TOKENS, shapes.text.width)).astype(np.float16),
        token_mask_BT=np.ones((BATCH, TOKENS), bool),
        has_image_B=np.ones(BATCH, bool),
        has_text_B=np.ones(BATCH, bool),
    )


def _build(shapes: TowerShapes) -> tuple[Fusion, FusionConfig]:
    torch.manual_seed(0)
    config = FusionConfig(
        visual_width=shapes.visual.width,
        text_width=shapes.text.width,
        grid_cells=GRID_CELLS,
        dimensions=512,
        labels=96,
        words=512,
        kept=170,
        classes=1000,
        image_landmarks=2048,
        text_landmarks=2048,
        label_shares=(0.3, 1.5),
        similarity="cosine",
    )
    return build_fusion(config, shapes).eval(), config


def _step(loss: torch.Tensor, optimiser: torch.optim.Optimizer) -> float:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()
