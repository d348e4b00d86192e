"""How the fusion is trained on the cached outputs of the frozen towers.

Shapes: N items, P training items, B batch, L labels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cbir.classes import Classes
from cbir.copies import is_bare, load_copies
from cbir.encoder import Features, read_canvas
from cbir.errors import CbirError, TrainingError
from cbir.features import CACHE, add_words, first_captions, load_features, select_rows
from cbir.finetune import FAULTS, compute_deterministically
from cbir.fusing import save_fusion
from cbir.fusion import Fusion, FusionConfig
from cbir.held_out import HeldOut, check_copies, embed_views
from cbir.history import find_best
from cbir.label_names import lend_names
from cbir.late import TEXTURES
from cbir.objective import Objective, RelativeWords, TrainingData
from cbir.params import FineTuneParams, TowerParams, TrainParams
from cbir.params.file import load_section
from cbir.progress import follow
from cbir.records import read_items, read_relative, read_table, replace_folder, write_json
from cbir.start import start_fusion
from cbir.towers.export import export_towers
from cbir.towers.imagenet import read_classes
from cbir.towers.run import Towers, hash_files
from cbir.towers.text import build_text
from cbir.towers.visual import build_visual
from cbir.tune_towers import forget_checkpoints, tune_towers

LEAST_ITEMS = 16
COPIES = 2  # changed copies of each picture, where pictures are all there is
PATIENCE = 3  # epochs without a better one, after which the first fit stops
TRUST_RATE = 10  # the few weights that decide on trust learn faster, for they start at zero alone
History = list[dict[str, Any]]


def train(
    ingested: Path,
    split: Path,
    out: Path,
    *,
    tower_params: TowerParams,
    tune_params: FineTuneParams,
    params: TrainParams,
) -> None:
    """Choose the number of epochs by retrieval on validation, then train on train and validation items together.

    Writes the encoder folder ``out``: towers (ONNX), tokenizer, fusion weights (safetensors), sizes, history.

    Raises:
        TrainingError: too few items, or a loss that is not finite.
        TowerError: a tower's weights are missing.
    """
    compute_deterministically()
    items, table = _read_split_items(ingested, split)
    rows = {name: np.flatnonzero(table["split"] == name) for name in ("train", "validation")}
    lacking = LEAST_ITEMS - len(rows["train"])
    if lacking > 0:
        raise TrainingError(f"Only {len(rows['train'])} items to train on; import at least {lacking} more.")
    told = items.drop_columns(["image"])  # rows taken of pictures would be copies of all of them
    captions = [text for texts in lend_names(told.take(rows["train"]))["captions"].to_pylist() for text in texts]
    textured = any(name in TEXTURES and share > 0 for name, share in params.late.items())
    visual, text = build_visual(tower_params, textured=textured), build_text(tower_params, captions=captions)
    tuned = None
    if tune_params.epochs:
        key = f"{tower_params}{tune_params}{params}{hash_files([split / 'split.parquet', *sorted(ingested.iterdir())])}"
        one_space = tower_params.visual == tower_params.text
        tuned = tune_towers(
            visual,
            text,
            items,
            rows=rows,
            one_space=one_space,
            key=key,
            out=out,
            tune_params=tune_params,
            params=params,
        )
        if tuned is None:
            return
    with replace_folder(out) as folder:
        if tuned is not None:
            write_json(folder / "finetune.json", tuned)
        export_towers(visual, text, folder)
        towers = Towers(folder)
        catalogue = _Catalogue(
            ingested=ingested,
            items=told,
            cluster_N=table["cluster"],
            features=load_features(items, towers_folder=folder),
            towers=towers,
            classes=read_classes(tower_params, towers, tuned=tune_params.epochs > 0),
            copies=_copy_pictures(items, towers_folder=folder, seed=params.seed),
        )
        del items  # what follows needs no pictures, and may need their room
        _write_fusion(folder, catalogue, rows, params=params)
    if tune_params.epochs:
        forget_checkpoints(out)


def _write_fusion(folder: Path, catalogue: _Catalogue, rows: Mapping[str, np.ndarray], *, params: TrainParams) -> None:
    """Fit the fusion, turn its space so that the first dimensions say most, and write it with its history."""
    fit = _solve_changes if catalogue.copies else _fit_epochs
    fusion, config, history = fit(catalogue, rows["train"], validation=rows["validation"], params=params)
    fusion.late.order(embed_views(fusion, catalogue.features))
    canvas = read_canvas(catalogue.ingested / "ingest.json")
    save_fusion(fusion, config, catalogue.towers.shapes, folder=folder, canvas=canvas)
    write_json(folder / "history.json", history)


@dataclass(frozen=True, kw_only=True)
class _Catalogue:
    """What every fit draws its rows from, no test item among them; ``items`` are without their pictures.

    ``copies`` are of the pictures, where they are all there is.
    """

    ingested: Path
    items: pa.Table
    cluster_N: np.ndarray
    features: Features
    towers: Towers
    classes: Classes
    copies: list[Features]

    @property
    def rows(self) -> np.ndarray:
        """All of them."""
        return np.arange(len(self.items))

    def select_copies(self, rows: np.ndarray) -> list[Features]:
        """Copies of the pictures of the given rows."""
        return [select_rows(one, rows) for one in self.copies]


def _copy_pictures(items: pa.Table, *, towers_folder: Path, seed: int) -> list[Features]:
    """What a catalogue without words and labels learns from; nothing where there are any."""
    if not is_bare(items.drop_columns(["image"])):
        return []
    seeds = range(COPIES * seed, COPIES * (seed + 1))
    return [load_copies(items, seed=one, towers_folder=towers_folder, cache=CACHE) for one in seeds]


def _read_split_items(ingested: Path, split: Path) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Items that are no test items, and the split and cluster of each."""
    items = read_items(ingested, columns=["id", "image", "captions", "labels", "sha256"])
    table = read_table(split / "split.parquet", made_by="split").to_pydict()
    row = {id_: n for n, id_ in enumerate(table["id"])}
    order = np.array([row[id_] for id_ in items["id"].to_pylist()], dtype=np.int64)
    known_N = np.array(table["split"])[order] != "test"
    kept = order[known_N]
    return items.filter(pa.array(known_N)), {name: np.array(table[name])[kept] for name in ("split", "cluster")}


def _solve_changes(
    catalogue: _Catalogue, rows: np.ndarray, *, validation: np.ndarray, params: TrainParams
) -> tuple[Fusion, FusionConfig, History]:
    """Learn from pictures alone, in closed form: training by gradient lost more than it gained (docs/benchmarks.md).

    The history has one row: how well copies find the validation pictures by what was learned without them.
    """
    history: History = []
    if len(validation) > 1:
        fusion = _Fit(catalogue, rows, params=params).fusion.eval()
        asked, searched = catalogue.select_copies(validation)[0], select_rows(catalogue.features, validation)
        history.append({"epoch": 0, **check_copies(fusion, asked, searched)})
    fit = _Fit(catalogue, catalogue.rows, params=params)
    return fit.fusion.eval(), fit.config, history


def _fit_epochs(
    catalogue: _Catalogue, rows: np.ndarray, *, validation: np.ndarray, params: TrainParams
) -> tuple[Fusion, FusionConfig, History]:
    """Choose the number of epochs on validation, then train on all items for as long."""
    fusion, config, history = _choose_epochs(catalogue, rows, validation=validation, params=params)
    if len(validation) and history:
        fusion, config = _refit(catalogue, catalogue.rows, epochs=find_best(history) + 1, params=params)
    return fusion, config, history


def _choose_epochs(
    catalogue: _Catalogue, rows: np.ndarray, *, validation: np.ndarray, params: TrainParams
) -> tuple[Fusion, FusionConfig, History]:
    """Train on ``rows`` until validation gets no better; without validation items, for all epochs."""
    print(f"heads in closed form of {len(rows):,} items, then at most {params.epochs} epochs", file=sys.stderr)
    fit = _Fit(catalogue, rows, params=params)
    held_out = HeldOut(
        catalogue.items.take(validation),
        select_rows(catalogue.features, validation),
        ingested=catalogue.ingested,
        towers=catalogue.towers,
    )
    history: History = []
    for epoch, loss in enumerate(fit.run(params.epochs, description="choose epochs")):
        history.append({"epoch": epoch, "loss": loss, **held_out.check(fit.fusion)})
        print(", ".join(f"{name} {value:.3g}" for name, value in history[-1].items()), file=sys.stderr)
        if len(validation) and epoch - find_best(history) >= PATIENCE:
            break
    return fit.fusion, fit.config, history


def _refit(catalogue: _Catalogue, rows: np.ndarray, *, epochs: int, params: TrainParams) -> tuple[Fusion, FusionConfig]:
    print(f"the same of {len(rows):,} items, those of validation among them, {epochs} epochs", file=sys.stderr)
    fit = _Fit(catalogue, rows, params=params)
    for _ in fit.run(epochs, description="train"):
        pass
    return fit.fusion, fit.config


class _Fit:
    """One training of a fusion on the given rows, from its closed-form start."""

    def __init__(self, catalogue: _Catalogue, rows: np.ndarray, *, params: TrainParams) -> None:
        torch.manual_seed(params.seed)
        self.rng = np.random.default_rng(params.seed)
        self.params = params
        items, indexed = lend_names(catalogue.items.take(rows)), select_rows(catalogue.features, rows)
        self.data = TrainingData(
            items,
            add_words(indexed, catalogue.towers, first_captions(items)),
            indexed=indexed,
            cluster_N=catalogue.cluster_N[rows],
            most_labels=params.dimensions // 3,
        )
        pairs = read_relative(catalogue.ingested, self.data.ids)
        self.fusion, self.config, evidence = start_fusion(
            self.data.features,
            self.data.label_NL,
            basis_LC=self.data.basis_LC,
            cluster_N=self.data.cluster_N,
            classes=catalogue.classes,
            shapes=catalogue.towers.shapes,
            params=params,
            copies=catalogue.select_copies(rows),
        )
        relative = RelativeWords(self.data, pairs, towers=catalogue.towers)
        self.objective = Objective(self.fusion, self.data, evidence=evidence, relative=relative, params=params)
        self.trained = [p for p in (*self.fusion.parameters(), self.objective.proxy_LD) if p.requires_grad]
        self.steps = max(len(rows) // params.batch_size, 1)

    def run(self, epochs: int, *, description: str) -> Iterator[float]:
        """Train for ``epochs`` of the schedule's ``params.epochs``; yield the mean loss of each.

        Raises:
            TrainingError: a loss is not finite; the ids of its batch are saved.
        """
        optimiser, schedule = self._make_optimiser()
        for epoch in follow(range(epochs), total=epochs, description=f"{description}, epochs"):
            self.fusion.train()
            losses = []
            for batch in np.array_split(self.rng.permutation(len(self.data.ids)), self.steps):
                loss = self.objective(batch, rng=self.rng)
                if not bool(torch.isfinite(loss)):
                    write_json(FAULTS, [self.data.ids[n] for n in batch])
                    raise TrainingError(
                        f"The loss of epoch {epoch} is not finite; lower train.learning_rate, or look at the items in "
                        f"{FAULTS}."
                    )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.trained, 5.0)
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
            self.fusion.eval()
            yield float(np.mean(losses))

    def _make_optimiser(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        params = self.params
        trust = {*self.fusion.trust.parameters(), *self.fusion.hear.parameters()}
        rates = [params.learning_rate, TRUST_RATE * params.learning_rate]
        groups = [{"params": [p for p in self.trained if p not in trust]}, {"params": list(trust)}]
        optimiser = torch.optim.AdamW(groups, weight_decay=params.weight_decay)
        total = self.steps * params.epochs + 1
        return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=total, pct_start=0.1)


def main() -> None:
    """Run the stage: ``python -m cbir.train INGESTED SPLIT OUT``."""
    ingested, split, out = map(Path, sys.argv[1:4])
    try:
        train(
            ingested,
            split,
            out,
            tower_params=load_section(Path("params.yaml"), "towers", TowerParams),
            tune_params=load_section(Path("params.yaml"), "finetune", FineTuneParams),
            params=load_section(Path("params.yaml"), "train", TrainParams),
        )
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
