"""How the towers themselves are fine-tuned before they are exported: on a CPU, a GPU, several of them or several hosts.

Images and their words are drawn together by ``train.loss``. A picture without a caption has the names of its labels for
words; one without either is drawn to itself, changed at random (Chen et al. 2020, SimCLR), so a catalogue of bare
pictures trains too. Towers stay in eval mode: what they are fine-tuned with is what is exported, and a row gives the
same whatever is beside it. The global batch is what counts: rows are shared out among ranks and their vectors gathered,
and where they do not fit, gradients are cached (Gao et al. 2021, Scaling deep contrastive learning batch size under
memory limited setup), so neither the number of ranks nor ``micro_batch`` changes what is learned. Lightning Fabric
places the work.

Shapes: B batch, of one rank or of all, R ranks, D dimensions.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from tokenizers import Tokenizer
from torchvision.transforms.v2.functional import pil_to_tensor

from cbir.augment import JOB, Batch, Order, Pictures, join_views, open_loader
from cbir.errors import TrainingError
from cbir.history import find_best
from cbir.images import decode_png
from cbir.launch import count_workers, launch, read_memory
from cbir.losses import PairLoss
from cbir.params import FineTuneParams
from cbir.progress import follow
from cbir.ranks import Qrels, measure_queries, pack_qrels, score_vectors
from cbir.records import write_json
from cbir.towers.run import count_cores
from cbir.towers.text import tokenise
from cbir.two_towers import TwoTowers, list_groups

PATIENCE = 3  # epochs without a better one
CLIP = 1.0
FAULTS = Path("reports/training/not-finite.json")


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """Pictures (PNG), their first captions, lent ones or None, and codes that are equal where picture or caption is."""

    images: Sequence[bytes]
    texts: Sequence[str | None]
    code_N: np.ndarray
    ids: Sequence[str]


class FineTuning:
    """One fine-tuning: model, optimiser and progress, placed by Fabric."""

    def __init__(
        self,
        model: TwoTowers,
        data: Captioned,
        validation: Captioned,
        *,
        tokenizer: Tokenizer,
        loss: PairLoss,
        params: FineTuneParams,
        faults: Path,
    ) -> None:
        self.fabric = launch(params)
        self.data, self.validation, self.tokenizer = data, validation, tokenizer
        self.loss, self.params, self.faults = loss, params, faults
        model.eval()
        optimiser = torch.optim.AdamW(list_groups(model, params), weight_decay=params.weight_decay)
        if params.compile:
            model.compile_towers()
        self.bare = model
        self.model, self.optimiser = self.fabric.setup(model, optimiser)
        rank, ranks = self.fabric.global_rank, self.fabric.world_size
        self.order = Order(len(data.images), batch_size=params.batch_size, seed=params.seed, rank=rank, ranks=ranks)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            [group["lr"] for group in optimiser.param_groups],
            total_steps=self.order.steps * params.epochs + 1,
            pct_start=0.1,
        )
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        on_gpu = self.fabric.device.type == "cuda"
        self.loader = open_loader(
            Pictures(data.images, data.texts, side=model.visual.image_size, seed=params.seed),
            self.order,
            workers=count_workers(params.workers, on_gpu=on_gpu, ranks=max(ranks // params.hosts, 1)),
            pinned=on_gpu,
        )

    def run_epoch(self) -> dict[str, float]:
        """Train for one epoch, then measure retrieval on validation items.

        Raises:
            TrainingError: a loss is not finite, and the ids of its batch are saved; or the GPU's memory is full.
        """
        began, losses = time.monotonic(), list[torch.Tensor]()
        quiet = not self.fabric.is_global_zero
        named = f"fine-tune epoch {self.epoch + 1}, batches"
        try:
            for batch, row_B in follow(self.load_batches(), description=named, total=self.order.steps, quiet=quiet):
                losses.append(self.step(batch, row_B))
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"The GPU's memory is full; lower finetune.micro_batch from {self.params.micro_batch}, which changes "
                "nothing that is learned."
            ) from None
        loss = float(torch.stack(losses).double().mean())
        speed = len(self.data.images) / (time.monotonic() - began)
        measured = self.measure() if self.fabric.is_global_zero else {}
        row = {"epoch": float(self.epoch), "loss": loss, **self.fabric.broadcast(measured)}
        Console(stderr=True, quiet=quiet, soft_wrap=True).print(
            f"fine-tune epoch {self.epoch + 1}/{self.params.epochs}: loss {row['loss']:.4f}, validation hit@10 "
            f"{row['hit@10']:.3f}, mAP {row['map']:.3f}, {speed:.0f} images/s, "
            f"{read_memory(self.fabric.device):.1f} GiB",
            highlight=False,
        )
        self.history.append(row)
        self.epoch += 1
        return row

    def measure(self) -> dict[str, float]:
        """How well validation captions find their pictures, or equal ones: hit@10, mAP, and ``validation``, the mean.

        All are 0 where there are none.
        """
        rows = [n for n, text in enumerate(self.validation.texts) if text]
        if len(rows) < 2:
            return dict.fromkeys(("hit@10", "map", "validation"), 0.0)
        parts = np.array_split(np.arange(len(rows)), len(rows) // self.params.micro_batch + 1)
        with torch.inference_mode():
            image_ND, text_ND = (
                torch.cat([embed([rows[n] for n in part]) for part in parts]).float().cpu().numpy()
                for embed in (self._see_validation, self._read_validation)
            )
        score, code_N = score_vectors(text_ND, image_ND, self.bare.similarity), self.validation.code_N[rows]

        def judge(start: int, stop: int) -> Qrels:
            return pack_qrels(code_N[start:stop, None] == code_N)

        measured = measure_queries(score, judge, queries=len(rows), items=len(rows), ks=(10,))
        means = {name: float(measured.figures[name].mean()) for name in ("hit@10", "map")}
        return means | {"validation": sum(means.values()) / 2}

    def save(self, path: Path) -> None:
        """Write all that ``resume`` needs, beside and then renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.partial")
        self.fabric.save(beside, self._state() | {"epoch": self.epoch, "history": self.history})
        if self.fabric.is_global_zero:
            beside.replace(path)

    def resume(self, path: Path) -> None:
        """Go on where ``save`` stopped, to the same weights as without a stop."""
        rest = self.fabric.load(path, self._state(), weights_only=True)
        self.epoch, self.history = rest["epoch"], rest["history"]

    def _state(self) -> dict[str, Any]:
        return {"model": self.model, "optimiser": self.optimiser, "schedule": self.schedule}

    def load_batches(self) -> Iterator[tuple[Batch, np.ndarray]]:
        """This rank's share of every global batch of the epoch, and the rows of all ranks' shares, rank by rank."""
        self.order.epoch = self.epoch
        views = iter(self.loader)
        for row_RB in self.order.deal():
            parts = list(itertools.islice(views, -(-row_RB.shape[1] // JOB)))
            batch = join_views(parts, self.data.texts, tokenizer=self.tokenizer, device=self.fabric.device)
            yield batch, row_RB.ravel()

    def step(self, batch: Batch, row_B: np.ndarray) -> torch.Tensor:
        """One step on this rank's share of a batch and the rows of all shares; the loss, on the device.

        Raises:
            TrainingError: the loss is not finite, or its gradient; the ids of the batch are saved.
        """
        row_B, once = np.unique(row_B, return_index=True)  # a row that fills up shares counts once
        code_B, once_B = (torch.from_numpy(rows).to(self.fabric.device) for rows in (self.data.code_N[row_B], once))
        compare = partial(self._compare, code_B=code_B, once_B=once_B)
        parts = list(batch.split(self.params.micro_batch))
        if len(parts) == 1:
            loss = compare(self._run(batch))
            self.fabric.backward(loss)
        else:
            loss = self._cache_gradients(parts, compare)
        length = self.fabric.clip_gradients(self.model, self.optimiser, max_norm=CLIP, error_if_nonfinite=False)
        assert length is not None
        if not bool(torch.isfinite(loss + length)):  # the one place where a step waits for the device
            if self.fabric.is_global_zero:
                write_json(self.faults, [self.data.ids[row] for row in row_B.tolist()])
            raise TrainingError(
                f"The loss of epoch {self.epoch} or its gradient is not finite; lower finetune.tower_rate, or look at "
                f"the items in {self.faults}."
            )
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.schedule.step()
        return loss.detach()

    def _cache_gradients(self, parts: list[Batch], compare: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The loss of all vectors, and its gradient carried back through the towers a part at a time."""
        with torch.no_grad():
            vectors = torch.cat([self._run(part) for part in parts], dim=1)
        vectors.requires_grad_()
        loss = compare(vectors)
        loss.backward()  # type: ignore[no-untyped-call]
        assert vectors.grad is not None
        gradients = torch.split(vectors.grad, self.params.micro_batch, dim=1)
        for number, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
            with self.fabric.no_backward_sync(self.model, enabled=number < len(parts) - 1):
                self.fabric.backward((self._run(part).float() * gradient).sum())
        return loss

    def _run(self, batch: Batch) -> torch.Tensor:
        return self.model(batch.pixels, batch.other_pixels, batch.ids, batch.mask, batch.has_text_B)

    def _compare(self, vectors: torch.Tensor, *, code_B: torch.Tensor, once_B: torch.Tensor) -> torch.Tensor:
        """The loss of the global batch, the same on every rank."""
        image_BD, answer_BD = self._gather(vectors.float())[:, once_B]
        return self.loss(image_BD, answer_BD, code_B)

    def _gather(self, part: torch.Tensor) -> torch.Tensor:
        """Rows (dimension 1) of every rank, with their gradients."""
        if self.fabric.world_size == 1:
            return part
        return torch.cat(list(self.fabric.all_gather(part, sync_grads=part.requires_grad)), dim=1)

    def _see_validation(self, rows: Sequence[int]) -> torch.Tensor:
        side = (self.bare.visual.image_size,) * 2
        with ThreadPoolExecutor(count_cores()) as threads:
            pictures = list(threads.map(lambda row: _decode(self.validation.images[row], side), rows))
        return self.bare.see(torch.stack(pictures).to(self.fabric.device))

    def _read_validation(self, rows: Sequence[int]) -> torch.Tensor:
        ids, mask = tokenise(self.tokenizer, [self.validation.texts[n] or "" for n in rows])
        return self.bare.read(ids.to(self.fabric.device), mask.to(self.fabric.device))


def fine_tune(tuning: FineTuning, *, checkpoint: Path) -> bool:
    """Train until validation retrieval gets no better, and leave the best weights in the towers of the first rank.

    Killed and started again, it goes on from the last whole epoch in ``checkpoint``.

    Returns:
        Whether this process is the first of all ranks, which writes what comes of it.

    Raises:
        TrainingError: another host does not see the checkpoint.
    """
    if tuning.fabric.broadcast(checkpoint.exists()):
        if not checkpoint.exists():
            raise TrainingError(f"{checkpoint} is not there; let all hosts work in one folder that they share.")
        tuning.resume(checkpoint)
    best = checkpoint.with_name("best.ckpt")
    while tuning.epoch < tuning.params.epochs:
        if tuning.epoch - find_best(tuning.history) > PATIENCE:
            break
        tuning.run_epoch()
        if find_best(tuning.history) == tuning.epoch - 1:
            tuning.fabric.save(best, {"model": tuning.model})
        tuning.save(checkpoint)
    first = bool(tuning.fabric.is_global_zero)
    if first and best.exists():
        tuning.bare.load_state_dict(torch.load(best, weights_only=True, map_location=tuning.fabric.device)["model"])
    return first


def _decode(image: bytes, side: tuple[int, int]) -> torch.Tensor:
    picture = decode_png(image)
    return pil_to_tensor(picture if picture.size == side else picture.resize(side, Image.Resampling.BICUBIC))
