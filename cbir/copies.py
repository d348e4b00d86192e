"""Changed copies of pictures: what a catalogue without words and labels learns from, and is asked with.

A copy is the picture cropped, mirrored, in other colours and compressed, as copies are met elsewhere (the changes of
SimCLR, Chen et al. 2020, without those that leave nothing to recognise).

Shapes: N rows, C copies of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cbir.encoder import Features
from cbir.features import load_features
from cbir.images import decode_png, encode_png

ASKED = 2**31  # seed of the copies that ask; training has small ones
SCHEMA = pa.schema([("image", pa.binary()), ("sha256", pa.string()), ("captions", pa.list_(pa.string()))])


def is_bare(items: pa.Table) -> bool:
    """Whether no item has a caption or a label, so that only its picture can teach and ask."""
    return not any(any(row or ()) for name in ("captions", "labels") for row in items[name].to_pylist())


def load_copies(items: pa.Table, *, seed: int, towers_folder: Path, cache: Path) -> Features:
    """Tower outputs of a changed copy of every picture of ``items``, as ``load_features`` gives those of pictures."""
    return load_features(
        change_pictures(items["image"].to_pylist(), seed=seed), towers_folder=towers_folder, cache=cache
    )


def change_pictures(images: Sequence[bytes], *, seed: int) -> pa.Table:
    """A changed copy of each picture, decided by ``seed`` and the picture: it is the same wherever the picture is."""
    copies = [encode_png(_change(image, seed=seed)) for image in images]
    names = [hashlib.sha256(copy).hexdigest() for copy in copies]
    return pa.table({"image": copies, "sha256": names, "captions": [[]] * len(copies)}, schema=SCHEMA)


def _change(image: bytes, *, seed: int) -> Any:
    import torch

    picture = decode_png(image)
    drawn = np.random.SeedSequence([seed, int.from_bytes(hashlib.sha256(image).digest()[:8], "big")])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(drawn.generate_state(1)[0]))
        return _make_change(picture.size)(picture)


@cache
def _make_change(size: tuple[int, int]) -> Any:
    from torchvision.transforms import v2  # takes seconds to import, and few catalogues are bare

    return v2.Compose(
        [
            v2.RandomResizedCrop(
                size[::-1], scale=(0.5, 1.0), ratio=(0.8, 1.25), interpolation=v2.InterpolationMode.BICUBIC
            ),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05),
            v2.PILToTensor(),
            v2.JPEG((40, 95)),
            v2.ToPILImage(),
        ]
    )
