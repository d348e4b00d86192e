"""What ONNX Runtime gains over eager PyTorch, and what our step costs over a bare loop of the same model.

Shapes: B batch, G grid cells, V visual width, T text tokens, W text width.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.timing import format_rate, format_time, time_call, time_in_turns
from cbir.encoder import Encoder, Features
from cbir.features import load_features
from cbir.fusing import build_fusion, make_tokens, save_fusion
from cbir.fusion import Fusion, FusionConfig, Tokens
from cbir.images import encode_png, load_query_image
from cbir.objective import Objective, RelativeWords, TrainingData
from cbir.params import TowerParams, TrainParams
from cbir.start import assemble_evidence
from cbir.towers.export import export_towers
from cbir.towers.run import Towers, normalise_pixels, open_tokenizer
from cbir.towers.shape import GRID_CELLS, TowerShapes
from cbir.towers.text import build_text
from cbir.towers.visual import build_visual

IMAGES, SIDE, EAGER_BATCH = 256, 224, 32
BATCH, TOKENS, LABELS = 256, 16, 96


def measure_embedding() -> list[list[str]]:
    """Files to vectors: by the exported encoder, and by the modules that it was exported from."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        visual, text = build_visual(TowerParams()), build_text(TowerParams(), captions=[])
        export_towers(visual, text, folder)
        fusion, config = _build(Towers(folder).shapes)
        fusion.late.order(torch.randn(IMAGES, len(fusion.late.turn_TD)))  # to fewer dimensions, as one that is trained
        save_fusion(fusion, config, Towers(folder).shapes, folder=folder)
        encoder = Encoder.load(folder)
        files, words = _draw_files(folder), [f"a picture of number {n}, drawn at random" for n in range(IMAGES)]
        caches = iter(folder / f"cache{n}" for n in range(1000))
        tokenizer = open_tokenizer(folder, max_tokens=encoder.towers.shapes.text.max_tokens)

        def run_eager() -> np.ndarray:
            return np.concatenate([run_batch(start) for start in range(0, IMAGES, EAGER_BATCH)])

        def run_batch(start: int) -> np.ndarray:
            chosen = slice(start, start + EAGER_BATCH)
            pixels = [normalise_pixels(load_query_image(file), encoder.towers.shapes.visual) for file in files[chosen]]
            encodings = tokenizer.encode_batch(words[chosen])
            ids, mask = (torch.tensor([getattr(e, name) for e in encodings]) for name in ("ids", "attention_mask"))
            there = torch.ones(len(pixels), dtype=torch.bool)
            with torch.inference_mode():
                grid_BGV, image_BS = visual(torch.from_numpy(np.stack(pixels)))
                text_BTW, text_BR = text(ids, mask)
                tokens = Tokens(
                    grid_BGV=grid_BGV, text_BTW=text_BTW, mask_BT=mask.bool(), has_image_B=there, has_text_B=there
                )
                return fusion(image_BS, text_BR, tokens=tokens).numpy()

        def run_ours() -> np.ndarray:
            """As the stage `embed` does, with nothing kept from before."""
            images = [file.read_bytes() for file in files]
            columns = {"image": images, "sha256": [file.name for file in files], "captions": [[word] for word in words]}
            return encoder.fuse(load_features(pa.table(columns), towers_folder=folder, cache=next(caches)))

        np.testing.assert_allclose(run_ours(), run_eager(), atol=3e-3)
        ours, theirs = time_call(run_ours), time_call(run_eager)
    how = (
        f"{IMAGES} random PNG files of {SIDE} x {SIDE} pixels with captions to vectors, equal to 3e-3; "
        f"eager in batches of {EAGER_BATCH}"
    )
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
    """One optimiser step over three views: the trainer's own, from numpy rows, and by hand on ready tensors."""
    shapes, params = _measure_shapes(), TrainParams(label_weight=0.0, batch_size=BATCH)
    features = _invent_features(shapes)
    (ours_model, _), (bare_model, _) = _build(shapes), _build(shapes)
    objective = _make_objective(ours_model, features, params=params)
    ours_optimiser, bare_optimiser = (
        torch.optim.AdamW(model.parameters(), lr=1e-4) for model in (ours_model, bare_model)
    )
    batch, rng = np.arange(BATCH), np.random.default_rng(0)
    evidence = assemble_evidence(bare_model, features)
    yes, no = torch.ones(BATCH).bool(), torch.zeros(BATCH).bool()
    views = [replace(make_tokens(features), has_image_B=i, has_text_B=t) for i, t in ((yes, no), (no, yes), (yes, yes))]
    target = torch.arange(BATCH)

    def step_ours() -> float:
        return _step(objective(batch, rng=rng), ours_model, ours_optimiser)

    def step_bare() -> float:
        vectors = [bare_model.blend(evidence, tokens=tokens) for tokens in views]
        loss = torch.zeros(())
        for a, b, weight in ((0, 1, 2 / 3), (0, 2, 1 / 6), (1, 2, 1 / 6)):
            logits = vectors[a] @ vectors[b].T / params.temperature
            loss = loss + weight * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return _step(loss, bare_model, bare_optimiser)

    np.testing.assert_allclose(step_ours(), step_bare(), rtol=1e-3)
    how = f"batch {BATCH}, three views, InfoNCE over their pairs, AdamW; the first losses are equal; taken in turns"
    ours, theirs = time_in_turns(step_ours, step_bare)
    ratio = f"{ours.median / theirs.median:.2f} times as long as"
    return [
        ["training step", f"{format_time(ours)}, {ratio}", f"bare loop on ready tensors: {format_time(theirs)}", how]
    ]


def _make_objective(fusion: Fusion, features: Features, *, params: TrainParams) -> Objective:
    items = pa.table(
        {
            "id": [str(n) for n in range(BATCH)],
            "sha256": [str(n) for n in range(BATCH)],
            "captions": [[f"caption {n}"] for n in range(BATCH)],
            "labels": [[f"label {n % (LABELS + 1)}"] for n in range(BATCH)],
        }
    )
    data = TrainingData(items, features, indexed=features, cluster_N=np.arange(BATCH), most_labels=LABELS)
    relative = RelativeWords([], towers=None)  # type: ignore[arg-type]  # asked for words alone
    return Objective(fusion, data, evidence=assemble_evidence(fusion, features), relative=relative, params=params)


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
        labels=LABELS,
        words=512,
        kept=170,
        classes=1000,
        appearance=256,
        image_landmarks=2048,
        text_landmarks=2048,
        both_landmarks=2048,
        label_shares=(0.3, 1.5),
        appearance_shares=(0.7, 0.4),
        similarity="cosine",
        late={},
    )
    return build_fusion(config, shapes).eval(), config


def _step(loss: torch.Tensor, model: Fusion, optimiser: torch.optim.Optimizer) -> float:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimiser.step()
    return loss.item()
