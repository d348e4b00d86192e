"""The stage's way to fine-tuned towers: which rows are learned from and watched, and where checkpoints lie."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cbir.clusters import number_labels, number_twins
from cbir.features import first_captions
from cbir.finetune import FAULTS, Captioned, FineTuning, fine_tune
from cbir.label_names import lend_names
from cbir.metric_losses import SHARED, make_pair_loss
from cbir.params import FineTuneParams, LossName, TrainParams
from cbir.records import write_text
from cbir.towers.run import open_tokenizer
from cbir.towers.text import TextTower
from cbir.towers.visual import VisualTower
from cbir.two_towers import TwoTowers

CHECKPOINTS = Path(".cbir/finetune")  # in the folder that a stage runs in, the workspace
MARK = "out"  # in a folder of checkpoints: names the encoder's folder that they are for
History = list[dict[str, float]]


def tune_towers(
    visual: VisualTower,
    text: TextTower,
    items: pa.Table,
    *,
    rows: Mapping[str, np.ndarray],
    one_space: bool,
    key: str,
    out: Path,
    tune_params: FineTuneParams,
    params: TrainParams,
) -> History | None:
    """Fine-tune both towers in place on the rows ``train`` of ``items``, watched on the rows ``validation``.

    ``key`` names all that the outcome depends on: of the same key, a run that was stopped goes on. Its checkpoints stay
    until ``forget_checkpoints`` is told that the encoder lies in ``out``.

    Returns:
        The history, a row an epoch; None where this is not the first of all ranks, which writes what comes of it.
    """
    folder = CHECKPOINTS / hashlib.sha256(key.encode()).hexdigest()[:16]
    with tempfile.TemporaryDirectory() as scratch:
        text.save_tokenizer(Path(scratch))
        tokenizer = open_tokenizer(Path(scratch), max_tokens=text.max_tokens)
    torch.manual_seed(tune_params.seed)  # of the projections
    model = TwoTowers(visual, text, dimensions=params.dimensions, similarity=params.similarity, one_space=one_space)
    tuning = FineTuning(
        model,
        _select(items, rows["train"], loss=params.loss),
        _select(items, rows["validation"]),
        tokenizer=tokenizer,
        loss=make_pair_loss(params.loss, temperature=params.temperature, similarity=params.similarity),
        params=tune_params,
        faults=FAULTS,
    )
    if tuning.fabric.is_global_zero:
        write_text(folder / MARK, str(out))
    first = fine_tune(tuning, checkpoint=folder / "last.ckpt")
    model.cpu().float()
    return tuning.history if first else None


def forget_checkpoints(out: Path) -> None:
    """Remove the checkpoints for the encoder in ``out``, of other data and parameters too, and those for no folder."""
    for folder in CHECKPOINTS.glob("*"):
        mark = folder / MARK
        of = Path(mark.read_text(encoding="utf-8")) if mark.exists() else out
        if of == out or not of.parent.exists():  # a fold's folder goes with its cross-validation
            shutil.rmtree(folder)


def _select(items: pa.Table, rows: np.ndarray, *, loss: LossName = "info_nce") -> Captioned:
    """Rows as they are learned from by a loss, or measured."""
    chosen = lend_names(items.drop_columns(["image"]).take(rows))
    texts = first_captions(chosen)
    shared = loss in SHARED
    codes = number_labels(chosen["labels"].to_pylist()) if shared else number_twins(texts, chosen["sha256"].to_pylist())
    return Captioned(images=_Images(items["image"], rows), texts=texts, code_N=codes, ids=chosen["id"].to_pylist())


class _Images(Sequence[bytes]):
    """Some rows of a column of pictures, each copied when it is asked for."""

    def __init__(self, column: pa.ChunkedArray, rows: np.ndarray) -> None:
        self.column, self.rows = column, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, n: Any) -> Any:
        return self.column[int(self.rows[n])].as_py()
