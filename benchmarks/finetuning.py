"""What a step of fine-tuning costs over a bare loop of the same towers, and how many images a second it sees.

Shapes: B batch, D dimensions.
"""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.timing import format_time, time_in_turns
from cbir.finetune import Captioned, FineTuning
from cbir.images import encode_png
from cbir.launch import compute_deterministically
from cbir.metric_losses import make_pair_loss
from cbir.params import FineTuneParams, TowerParams
from cbir.towers.run import open_tokenizer
from cbir.towers.text import build_text
from cbir.towers.visual import build_visual
from cbir.two_towers import TwoTowers, list_groups

SIDE, TEMPERATURE, CLIP = 224, 0.07, 1.0
ON_GPU = torch.cuda.is_available()
BATCH, IMAGES = (256, 4000) if ON_GPU else (32, 70)
Precision = Literal["32-true", "bf16-mixed"]
PRECISION: Precision = "bf16-mixed" if ON_GPU else "32-true"
SETTINGS: tuple[tuple[Precision, bool, int], ...] = (  # precision, compiled, batch; a processor takes the first
    ("32-true", False, BATCH),
    ("bf16-mixed", False, BATCH),
    ("bf16-mixed", False, 8 * BATCH),
    ("bf16-mixed", True, BATCH),
)


def measure_step_of_towers() -> list[list[str]]:
    """One step of both towers, as the stage `train` does it and by hand, on one batch that is there."""
    tuning = _make_tuning(BATCH, precision=PRECISION)
    bare = copy.deepcopy(tuning.bare)
    batch, row_B = next(tuning.load_batches())
    device, target_B = tuning.fabric.device, torch.arange(BATCH, device=tuning.fabric.device)
    optimiser = torch.optim.AdamW(list_groups(bare, tuning.params), weight_decay=tuning.params.weight_decay)

    def step_ours() -> float:
        compute_deterministically()
        return float(tuning.step(batch, row_B))

    def step_bare() -> float:
        torch.use_deterministic_algorithms(False)
        with torch.autocast(device.type, torch.bfloat16, enabled=PRECISION == "bf16-mixed"):
            vectors = bare(batch.pixels, None, batch.ids, batch.mask, batch.has_text_B)
        image_BD, text_BD = vectors.float()
        logits_BB = image_BD @ text_BD.T / TEMPERATURE
        loss = (F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(bare.parameters(), CLIP)
        optimiser.step()
        optimiser.zero_grad()
        return float(loss.detach())

    np.testing.assert_allclose(step_ours(), step_bare(), rtol=2e-2 if ON_GPU else 1e-3)
    ours, theirs = time_in_turns(step_ours, step_bare, turns=3)
    torch.use_deterministic_algorithms(False)
    ratio = f"{ours.median / theirs.median:.2f} times as long as"
    how = (
        f"EfficientNet-Lite0 and MiniLM-L6 unfrozen, batch {BATCH}, {PRECISION}, InfoNCE, AdamW, the stage's "
        "deterministic; the first losses are equal; taken in turns"
    )
    return [["fine-tuning step", f"{format_time(ours)}, {ratio}", f"bare loop: {format_time(theirs)}", how]]


def measure_epochs_of_towers() -> list[list[str]]:
    """Images a second from PNG files through the second epoch of one run, and its peak memory."""
    compute_deterministically()
    rows = []
    for precision, compiled, batch in SETTINGS[: None if ON_GPU else 1]:
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        tuning = _make_tuning(IMAGES, precision=precision, compile=compiled, batch_size=batch)
        tuning.run_epoch()
        began = time.perf_counter()
        tuning.run_epoch()
        speed = IMAGES / (time.perf_counter() - began)
        memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if ON_GPU else ""
        what = f"fine-tuning, {precision}{', compiled' if compiled else ''}, batch {batch:,} in parts of {BATCH}"
        how = f"{IMAGES:,} smooth random PNG files of {SIDE} x {SIDE} pixels with captions, the second epoch, validated"
        rows.append([what, f"{speed:,.0f} images/s{memory}", "-", how])
        del tuning  # and what it has on the GPU
    torch.use_deterministic_algorithms(False)
    return rows


def _make_tuning(count: int, *, precision: Precision, compile: bool = False, batch_size: int = BATCH) -> FineTuning:
    torch.manual_seed(0)
    visual, text = build_visual(TowerParams()), build_text(TowerParams(), captions=[])
    with tempfile.TemporaryDirectory() as scratch:
        text.save_tokenizer(Path(scratch))
        tokenizer = open_tokenizer(Path(scratch), max_tokens=text.max_tokens)
    return FineTuning(
        TwoTowers(visual, text, dimensions=512, similarity="cosine", one_space=False),
        _draw(count),
        _draw(BATCH),
        tokenizer=tokenizer,
        loss=make_pair_loss("info_nce", temperature=TEMPERATURE, similarity="cosine"),
        params=FineTuneParams(
            epochs=10_000, batch_size=batch_size, micro_batch=BATCH, precision=precision, compile=compile
        ),
        faults=Path("not-finite.json"),
    )


def _draw(count: int) -> Captioned:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 28, 28, 3), dtype=np.uint8)
    drawn = [encode_png(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in noise]
    return Captioned(
        images=[drawn[n % len(drawn)] for n in range(count)],
        texts=[f"a picture of number {n}, drawn at random" for n in range(count)],
        code_N=np.arange(count),
        ids=[str(n) for n in range(count)],
    )
