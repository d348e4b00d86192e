"""How the fusion is trained on the cached outputs of the frozen towers.

Shapes: N items, B batch, L labels, D dimensions.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.progress import Progress

from cbir.encoder import Features, FusionConfig, build_fusion, run_fusion, save_fusion
from cbir.errors import CbirError, TrainingError
from cbir.features import first_captions, keep_modalities, load_features, select_rows
from cbir.fusion import Fusion, set_projection
from cbir.losses import info_nce, supervised_contrastive
from cbir.metrics import average_precision, encode_labels, hit_at_k, share_labels, sort_relevance
from cbir.params import TrainParams, load_section
from cbir.records import read_items, read_relative, read_table, write_json
from cbir.towers import GRID_CELLS, TEXT_WIDTH, VISUAL_WIDTH, Towers, export_default_towers

LEAST_ITEMS = 16
CHECK_EVERY = 5


def train(ingested: Path, split: Path, out: Path, *, params: TrainParams) -> None:
    """Train the fusion on the items of ``split`` train, choose the epoch by retrieval on validation.

    Writes the encoder folder ``out``: towers (ONNX), tokenizer, fusion weights (safetensors), sizes, history.

    Raises:
        TrainingError: too few items, or a loss that is not finite.
        TowerError: a tower's weights are missing.
    """
    torch.manual_seed(params.seed)
    torch.use_deterministic_algorithms(True)
    items, where = _read_split_items(ingested, split)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    export_default_towers(partial)
    features = load_features(items, towers_folder=partial)
    data = _TrainingData(
        items, features, relative=read_relative(ingested, items["id"].to_pylist()), towers=Towers(partial)
    )
    rows = {name: np.flatnonzero(where == name) for name in ("train", "validation")}
    if len(rows["train"]) < LEAST_ITEMS:
        raise TrainingError(f"Only {len(rows['train'])} items to train on; import at least {LEAST_ITEMS} more.")
    fusion, config = _start_fusion(features, rows["train"], params=params)
    history = _fit(fusion, data, rows=rows, params=params)
    save_fusion(fusion, config, partial)
    write_json(partial / "history.json", history)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)


class _TrainingData:
    """Features, labels, captions and relative captions of all items, by row."""

    def __init__(
        self, items: pa.Table, features: Features, *, relative: list[tuple[int, str, int]], towers: Towers
    ) -> None:
        self.ids = items["id"].to_pylist()
        self.features = features
        self.relative = relative
        self.towers = towers
        self.label_NL = encode_labels(items["labels"].to_pylist())
        self.caption_N = np.unique(
            [text or f"\0{i}" for i, text in enumerate(first_captions(items))], return_inverse=True
        )[1]
        self.image_N = np.unique(items["sha256"].to_pylist(), return_inverse=True)[1]


def _read_split_items(ingested: Path, split: Path) -> tuple[pa.Table, np.ndarray]:
    """Items and the split of each. Test items too: towers see them here for the cache, training never does."""
    items = read_items(ingested, columns=["id", "image", "captions", "labels", "sha256"])
    table = read_table(split / "split.parquet", made_by="split")
    where = dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))
    return items, np.array([where[i] for i in items["id"].to_pylist()])


def _start_fusion(features: Features, rows: np.ndarray, *, params: TrainParams) -> tuple[Fusion, FusionConfig]:
    config = FusionConfig(
        visual_width=VISUAL_WIDTH, text_width=TEXT_WIDTH, dimensions=params.dimensions, grid_cells=GRID_CELLS
    )
    fusion = build_fusion(config, dropout=params.dropout)
    train = select_rows(features, rows)
    pooled_NV = train.grid_BGV[train.has_image_B, 0].astype(np.float32)
    summed_NTW = (train.tokens_BTW * train.token_mask_BT[..., None]).astype(np.float32)
    for linear, pooled in ((fusion.visual, pooled_NV), (fusion.text, summed_NTW.sum(1)[train.has_text_B])):
        if len(pooled):
            _set_pca(linear, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), params.dimensions)
    return fusion, config


def _set_pca(linear: torch.nn.Linear, pooled_NV: np.ndarray, dimensions: int) -> None:
    mean_V = pooled_NV.mean(0)
    _, _, components = np.linalg.svd(pooled_NV - mean_V, full_matrices=False)
    set_projection(linear, mean=torch.from_numpy(mean_V), components=torch.from_numpy(components[:dimensions].copy()))


def _fit(
    fusion: Fusion, data: _TrainingData, *, rows: dict[str, np.ndarray], params: TrainParams
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(params.seed)
    train = rows["train"]
    in_train = np.zeros(len(data.ids), bool)
    in_train[train] = True
    relative = [r for r in data.relative if in_train[r[0]] and in_train[r[2]]]
    relative_words = _RelativeWords(data, relative)
    steps = max(len(train) // params.batch_size, 1)
    optimiser = torch.optim.AdamW(fusion.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=params.learning_rate, total_steps=steps * params.epochs, pct_start=0.1
    )
    history: list[dict[str, Any]] = []
    best, best_weights = -1.0, None
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("train", total=params.epochs)
        for epoch in range(params.epochs):
            fusion.train()
            losses = []
            for batch in np.array_split(rng.permutation(train), steps):
                loss = _compute_loss(fusion, data, batch=batch, params=params)
                if relative:
                    pairs = rng.choice(len(relative), min(params.batch_size, len(relative)), replace=False)
                    loss = loss + params.relative_weight * relative_words.compute_loss(fusion, pairs, params=params)
                if not bool(torch.isfinite(loss)):
                    named = ", ".join(data.ids[n] for n in batch[:5])
                    raise TrainingError(
                        f"The loss of epoch {epoch} is not finite (batch {named}, ...); lower train.learning_rate."
                    )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(fusion.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
            row: dict[str, Any] = {"epoch": epoch, "loss": float(np.mean(losses))}
            if (epoch + 1) % CHECK_EVERY == 0 or epoch + 1 == params.epochs:
                row |= _check(fusion, data, rows=rows["validation"])
                if row["validation"] >= best:
                    best = row["validation"]
                    best_weights = {name: t.detach().clone() for name, t in fusion.state_dict().items()}
            history.append(row)
            progress.update(bar, advance=1, description=f"train loss {row['loss']:.3f}")
    if best_weights is not None:
        fusion.load_state_dict(best_weights)
    return history


def _compute_loss(fusion: Fusion, data: _TrainingData, *, batch: np.ndarray, params: TrainParams) -> torch.Tensor:
    features = select_rows(data.features, batch)
    views = [
        run_fusion(fusion, keep_modalities(features, image=image, text=text))
        for image, text in ((True, False), (False, True), (True, True))
    ]
    same_BB = _equal(data.caption_N[batch]) | _equal(data.image_N[batch])
    there = [features.has_image_B, features.has_text_B, features.has_image_B & features.has_text_B]
    loss = torch.zeros(())
    for a, b in ((0, 1), (0, 2), (1, 2)):
        both = np.flatnonzero(there[a] & there[b])
        if len(both) > 1:
            pairs = same_BB[both][:, both]
            loss = loss + info_nce(views[a][both], views[b][both], same_BB=pairs, temperature=params.temperature) / 3
    label_BL = data.label_NL[batch]
    positive_BB = torch.from_numpy(label_BL @ label_BL.T > 0)
    kept = torch.from_numpy(np.concatenate(there))
    vector = torch.cat(views)[kept]
    positive = positive_BB.repeat(3, 3)[kept][:, kept]
    return loss + params.label_weight * supervised_contrastive(
        vector, positive_BB=positive, temperature=params.temperature
    )


def _equal(code_B: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(code_B[:, None] == code_B[None, :])


class _RelativeWords:
    """Relative captions of the training items, their words read once by the text tower."""

    def __init__(self, data: _TrainingData, relative: list[tuple[int, str, int]]) -> None:
        self.features = data.features
        words = sorted({caption for _, caption, _ in relative})
        self.word = np.array([words.index(caption) for _, caption, _ in relative])
        self.reference = np.array([reference for reference, _, _ in relative])
        self.target = np.array([target for _, _, target in relative])
        if words:
            self.tokens, self.mask = data.towers.read(words)

    def compute_loss(self, fusion: Fusion, pairs: np.ndarray, *, params: TrainParams) -> torch.Tensor:
        """InfoNCE from reference picture and words to the target picture."""
        asked = replace(
            select_rows(self.features, self.reference[pairs]),
            tokens_BTW=self.tokens[self.word[pairs]],
            token_mask_BT=self.mask[self.word[pairs]],
            has_text_B=np.ones(len(pairs), bool),
        )
        target = keep_modalities(select_rows(self.features, self.target[pairs]), image=True, text=False)
        return info_nce(
            run_fusion(fusion, asked),
            run_fusion(fusion, target),
            same_BB=_equal(self.target[pairs]),
            temperature=params.temperature,
        )


def _check(fusion: Fusion, data: _TrainingData, *, rows: np.ndarray) -> dict[str, float]:
    if len(rows) < 2:
        return {"validation": 0.0}
    fusion.eval()
    features = select_rows(data.features, rows)
    with torch.inference_mode():
        image, text, both = (
            run_fusion(fusion, keep_modalities(features, image=i, text=t)).numpy()
            for i, t in ((True, False), (False, True), (True, True))
        )
    asked = features.has_text_B
    hit = hit_at_k(sort_relevance(text[asked] @ image.T, np.eye(len(rows), dtype=bool)[asked]), k=10).mean()
    relevant = share_labels(data.label_NL[rows])
    some = relevant.any(1)
    score = both @ both.T
    np.fill_diagonal(score, -np.inf)
    mean_ap = (
        average_precision(sort_relevance(score, relevant)[some], total_Q=relevant[some].sum(1)).mean()
        if some.any()
        else 0.0
    )
    return {"hit@10": float(hit), "map": float(mean_ap), "validation": float((hit + mean_ap) / 2)}


def main() -> None:
    """Run the stage: ``python -m cbir.train INGESTED SPLIT OUT``."""
    ingested, split, out = map(Path, sys.argv[1:4])
    try:
        train(ingested, split, out, params=load_section(Path("params.yaml"), "train", TrainParams))
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
