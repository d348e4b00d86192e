"""What a training step sees of the pictures: decoded, changed at random, and the same again for the same seed.

Shapes: B batch, T tokens, R ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from cbir.images import decode_png
from cbir.towers.text import tokenise

JOB = 32  # pictures that one worker decodes for a batch
Numbered = tuple[int, int]  # an epoch and a row


@dataclass(frozen=True, kw_only=True)
class Views:
    """Pictures as they were changed, uint8 (B, 3, side, side), and changed once more where a row has no words.

    ``other_pixels`` is None where every row has words.
    """

    pixels: torch.Tensor
    other_pixels: torch.Tensor | None
    row_B: np.ndarray

    def pin_memory(self) -> Views:
        """The same where a GPU can fetch it while the processor goes on; a loader asks for it by this name."""
        other = None if self.other_pixels is None else self.other_pixels.pin_memory()
        return Views(pixels=self.pixels.pin_memory(), other_pixels=other, row_B=self.row_B)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Views and tokens on one device; a row without words has a false flag."""

    pixels: torch.Tensor
    other_pixels: torch.Tensor | None
    ids: torch.Tensor
    mask: torch.Tensor
    has_text_B: torch.Tensor

    def split(self, rows: int) -> Iterator[Batch]:
        """The batch in parts of at most ``rows``."""
        for start in range(0, len(self.pixels), rows):
            part = slice(start, start + rows)
            yield Batch(
                pixels=self.pixels[part],
                other_pixels=None if self.other_pixels is None else self.other_pixels[part],
                ids=self.ids[part],
                mask=self.mask[part],
                has_text_B=self.has_text_B[part],
            )


class Pictures(Dataset[tuple[torch.Tensor, torch.Tensor | None, int]]):
    """Pictures by epoch and row, changed by a seed that is theirs, on whatever rank or worker they are read."""

    def __init__(self, images: Sequence[bytes], texts: Sequence[str | None], *, side: int, seed: int) -> None:
        self.images, self.texts, self.seed = images, texts, seed
        self.change = v2.Compose(
            [
                v2.RandomResizedCrop(
                    side, scale=(0.6, 1.0), ratio=(0.85, 1.18), interpolation=v2.InterpolationMode.BICUBIC
                ),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, at: Numbered) -> tuple[torch.Tensor, torch.Tensor | None, int]:
        epoch, row = at
        picture = decode_png(self.images[row])
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would note the call for GPUs too, with its traceback, as long as none was used
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence([self.seed, epoch, row]).generate_state(1)[0])
            )
            return self._draw(picture), None if self.texts[row] else self._draw(picture), row

    def _draw(self, picture: Image.Image) -> torch.Tensor:
        return pil_to_tensor(self.change(picture))


class Order:
    """The rows of an epoch's global batches, dealt to ranks; as a loader's batch sampler, a rank's jobs of them.

    Batches are as equal as they can be and none is larger than ``batch_size``.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int, rank: int = 0, ranks: int = 1) -> None:
        self.count, self.seed, self.rank, self.ranks = count, seed, rank, ranks
        self.steps = -(-count // batch_size)
        self.share = -(-min(batch_size, count) // ranks)  # rows of a rank, at most
        self.epoch = 0

    def deal(self) -> Iterator[np.ndarray]:
        """The rows of every global batch of the epoch, int (R, B)."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        return (deal_rows(batch, ranks=self.ranks) for batch in np.array_split(order, self.steps))

    def __iter__(self) -> Iterator[list[Numbered]]:
        for row_RB in self.deal():
            mine = row_RB[self.rank].tolist()
            for start in range(0, len(mine), JOB):
                yield [(self.epoch, row) for row in mine[start : start + JOB]]


def deal_rows(batch: np.ndarray, *, ranks: int) -> np.ndarray:
    """The rows of a global batch that each rank sees, (R, B): equally many, for which some are given twice."""
    share = -(-len(batch) // ranks)
    return np.resize(batch, share * ranks).reshape(share, ranks).T


def open_loader(pictures: Pictures, order: Order, *, workers: int, pinned: bool) -> DataLoader[Views]:
    """Views of a rank's jobs, decoded by so many processes, which live as long as the loader.

    A batch is decoded while the one before is learned from.
    """
    ahead = max(2, -(-order.share // (JOB * workers)) + 1) if workers else None
    return DataLoader(
        pictures,  # type: ignore[arg-type]  # what it is cut into is what `stack_views` makes of it
        batch_sampler=order,
        collate_fn=stack_views,
        num_workers=workers,
        prefetch_factor=ahead,
        persistent_workers=workers > 0,
        pin_memory=pinned,
    )


def stack_views(parts: Sequence[tuple[torch.Tensor, torch.Tensor | None, int]]) -> Views:
    """Rows of ``Pictures`` -> views."""
    pixels, others, rows = zip(*parts, strict=True)
    drawn = [one if other is None else other for one, other in zip(pixels, others, strict=True)]
    worded = all(other is None for other in others)
    return Views(pixels=torch.stack(pixels), other_pixels=None if worded else torch.stack(drawn), row_B=np.array(rows))


def join_views(
    parts: Sequence[Views], texts: Sequence[str | None], *, tokenizer: Tokenizer, device: torch.device
) -> Batch:
    """A batch on ``device``, the words of its rows among ``texts`` read."""
    words = [texts[row] for part in parts for row in part.row_B]
    ids, mask = tokenise(tokenizer, [text or "" for text in words])
    worded = all(part.other_pixels is None for part in parts)
    others = [part.pixels if part.other_pixels is None else part.other_pixels for part in parts]
    return Batch(
        pixels=_join([part.pixels for part in parts], device),
        other_pixels=None if worded else _join(others, device),
        ids=ids.to(device),
        mask=mask.to(device),
        has_text_B=torch.tensor([bool(text) for text in words], device=device),
    )


def _join(parts: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    return torch.cat([part.to(device, non_blocking=True) for part in parts])
