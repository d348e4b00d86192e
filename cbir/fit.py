"""How a fusion is fitted on the cached outputs of the frozen towers, and for how many epochs.

Shapes: N items.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cbir.classes import Classes
from cbir.encoder import Features
from cbir.errors import TrainingError
from cbir.features import add_words, first_captions, select_rows
from cbir.finetune import FAULTS
from cbir.fusion import Fusion, FusionConfig
from cbir.held_out import HeldOut, check_copies
from cbir.history import find_best
from cbir.label_names import lend_names
from cbir.objective import Objective, RelativeWords, TrainingData
from cbir.params import TrainParams
from cbir.progress import follow
from cbir.records import read_relative, write_json
from cbir.start import start_fusion
from cbir.towers.run import Towers

PATIENCE = 3  # epochs without a better one, after which the first fit stops
TRUST_RATE = 10  # the few weights that decide on trust learn faster, for they start at zero alone
History = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Catalogue:
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


def solve_changes(
    catalogue: Catalogue, rows: np.ndarray, *, validation: np.ndarray, params: TrainParams
) -> tuple[Fusion, FusionConfig, History]:
    """Learn from pictures alone, in closed form: training by gradient lost more than it gained (docs/benchmarks.md).

    The history has one row: how well copies find the validation pictures by what was learned without them.
    """
    history: History = []
    if len(validation) > 1:
        fusion = _Fit(catalogue, rows, params=params).fusion.eval()
        asked, searched = catalogue.select_copies(validation)[0], select_rows(catalogue.features, validation)
        hashes = catalogue.items["sha256"].take(validation).to_pylist()
        history.append({"epoch": 0, **check_copies(fusion, asked, searched, hashes=hashes)})
    fit = _Fit(catalogue, catalogue.rows, params=params)
    return fit.fusion.eval(), fit.config, history


def fit_epochs(
    catalogue: Catalogue, rows: np.ndarray, *, validation: np.ndarray, params: TrainParams
) -> tuple[Fusion, FusionConfig, History]:
    """Choose the number of epochs on validation, then train on all items for as long."""
    fusion, config, history = _choose_epochs(catalogue, rows, validation=validation, params=params)
    if len(validation) and history:
        fusion, config = _refit(catalogue, catalogue.rows, epochs=find_best(history) + 1, params=params)
    return fusion, config, history


def _choose_epochs(
    catalogue: Catalogue, rows: np.ndarray, *, validation: np.ndarray, params: TrainParams
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


def _refit(catalogue: Catalogue, rows: np.ndarray, *, epochs: int, params: TrainParams) -> tuple[Fusion, FusionConfig]:
    print(f"the same of {len(rows):,} items, those of validation among them, {epochs} epochs", file=sys.stderr)
    fit = _Fit(catalogue, rows, params=params)
    for _ in fit.run(epochs, description="train"):
        pass
    return fit.fusion, fit.config


class _Fit:
    """One training of a fusion on the given rows, from its closed-form start."""

    def __init__(self, catalogue: Catalogue, rows: np.ndarray, *, params: TrainParams) -> None:
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
        relative = RelativeWords(pairs, towers=catalogue.towers)
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
