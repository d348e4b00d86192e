"""What a training step sees of the pictures: decoded, changed at random, and the same again for the same seed.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.utils.data import Dataset
from torchvision.transforms import v2

from cbir.images import decode_png
from cbir.towers.run import normalise_pixels
from cbir.towers.shape import VisualShape
from cbir.towers.text import tokenise


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pixels and tokens; a row without words has a false flag, and its picture changed once more."""

    pixels: torch.Tensor
    other_pixels: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    has_text_B: torch.Tensor
    row_B: torch.Tensor

    def split(self, rows: int) -> Iterator[Batch]:
        """The batch in parts of at most ``rows``."""
        parts = {name: torch.split(tensor, rows) for name, tensor in vars(self).items()}
        for number in range(len(parts["pixels"])):
            yield Batch(**{name: tensors[number] for name, tensors in parts.items()})

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()})

    def pin_memory(self) -> Batch:
        """The batch where a GPU can fetch it while the processor goes on; a loader asks for it by this name."""
        return Batch(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})


class Pictures(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """Pictures by row, changed by a seed that is the row's and the epoch's, on whatever rank or worker it is read."""

    def __init__(self, images: Sequence[bytes], texts: Sequence[str | None], shape: VisualShape, *, seed: int) -> None:
        self.images, self.texts, self.shape, self.seed = images, texts, shape, seed
        self.epoch = 0
        side = shape.image_size
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

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        picture = decode_png(self.images[row])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(np.random.SeedSequence([self.seed, self.epoch, row]).generate_state(1)[0])
            one = self._normalise(self.change(picture))
            two = one if self.texts[row] else self._normalise(self.change(picture))  # words are the answer
        return one, two, row

    def _normalise(self, picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(normalise_pixels(picture, self.shape))


class Collate:
    """Rows of ``Pictures`` -> a batch, with the words of each row."""

    def __init__(self, texts: Sequence[str | None], tokenizer: Tokenizer) -> None:
        self.texts, self.tokenizer = texts, tokenizer

    def __call__(self, parts: Sequence[tuple[torch.Tensor, torch.Tensor, int]]) -> Batch:
        """Stack ``parts``."""
        pixels, other, rows = zip(*parts, strict=True)
        words = [self.texts[row] for row in rows]
        ids, mask = tokenise(self.tokenizer, [text or "" for text in words])
        return Batch(
            pixels=torch.stack(pixels),
            other_pixels=torch.stack(other),
            ids=ids,
            mask=mask,
            has_text_B=torch.tensor([bool(text) for text in words]),
            row_B=torch.tensor(rows),
        )
