"""A fine-tuning of a tiny model on drawn squares; as a script, what every rank of a distributed one runs."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import open_clip
import torch
from conftest import COLOURS, TINY, TINY_CONFIG, draw

from cbir.finetune import Captioned, FineTuning, fine_tune
from cbir.images import encode_png
from cbir.losses import PairLoss
from cbir.metric_losses import make_pair_loss
from cbir.params import FineTuneParams, TowerParams
from cbir.towers.open_clip_models import load_open_clip
from cbir.towers.run import open_tokenizer
from cbir.towers.text import build_text
from cbir.towers.visual import build_visual
from cbir.two_towers import TwoTowers


def draw_squares(count: int, *, captions: bool = True, silent: int = 0, seed: int = 0) -> Captioned:
    """Squares in four colours with captions, or none; the first ``silent`` have none either way."""
    names = [list(COLOURS)[n % 4] for n in range(count)]
    return Captioned(
        images=[encode_png(draw(COLOURS[name], seed=n + seed)) for n, name in enumerate(names)],
        texts=[f"a {name} square, number {n}" if captions and n >= silent else None for n, name in enumerate(names)],
        code_N=np.arange(count),
        ids=[f"squares/{n}" for n in range(count)],
    )


def make_tuning(
    folder: Path,
    *,
    count: int = 32,
    captions: bool = True,
    silent: int = 0,
    one_space: bool = True,
    loss: PairLoss | None = None,
    **params: object,
) -> FineTuning:
    """A fine-tuning of the checkpoint in ``folder``, on ``count`` squares, 8 to watch."""
    name = f"open_clip/{TINY}"
    towers = TowerParams(visual=name, visual_weights=str(folder / "tiny.safetensors"), text=name)
    load_open_clip.cache_clear()  # or the model would be the last tuning's, trained
    visual, text = build_visual(towers), build_text(towers, captions=[])
    scratch = Path(tempfile.mkdtemp(dir=folder))  # of each rank: another would read it half written
    text.save_tokenizer(scratch)
    settings = {"epochs": 3, "batch_size": 16, "tower_rate": 1e-3, "accelerator": "cpu"} | params
    return FineTuning(
        TwoTowers(visual, text, dimensions=32, similarity="cosine", one_space=one_space),
        draw_squares(count, captions=captions, silent=silent),
        draw_squares(8, captions=captions, seed=100),
        tokenizer=open_tokenizer(scratch, max_tokens=20),
        loss=loss or make_pair_loss("info_nce", temperature=0.1, similarity="cosine"),
        params=FineTuneParams(**settings),
        faults=folder / "faults.json",
    )


def main() -> None:
    """Fine-tune on two ranks: ``tuning_run.py FOLDER COUNT MICRO_BATCH SILENT``; the first one writes the history."""
    folder, (count, micro_batch, silent) = Path(sys.argv[1]), map(int, sys.argv[2:])
    torch.set_num_threads(1)
    (folder / f"{TINY}.json").write_text(json.dumps(TINY_CONFIG))
    open_clip.add_model_config(folder / f"{TINY}.json")
    tuning = make_tuning(folder, count=count, silent=silent, micro_batch=micro_batch, devices=2)
    if fine_tune(tuning, checkpoint=folder / "last.ckpt"):
        (folder / "history.json").write_text(json.dumps(tuning.history))


if __name__ == "__main__":
    main()
