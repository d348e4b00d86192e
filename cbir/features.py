"""How the outputs of the frozen towers are computed once and kept, by content.

One file a block of items under the cache folder, its name a hash of the towers, the pictures and the texts: a
block that is there is not computed again. An item that comes or goes shifts the blocks behind it, which then are.

Shapes: N items, G grid cells, V visual width, T text tokens, W text width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from cbir.clusters import connect_rows, find_equals
from cbir.encoder import Features, compute_features
from cbir.images import decode_png
from cbir.towers.run import FILES, Towers, hash_files

BATCH = 32
CACHE = Path(".cbir/features")  # in the folder that a stage runs in, the workspace


def load_features(items: pa.Table, *, towers_folder: Path, cache: Path = CACHE, block_rows: int = 500) -> Features:
    """Tower outputs of every row of ``items`` (columns image, sha256, captions), from ``cache`` or computed.

    An item's text is its first caption; the others count in ``captions_BR``. Tokens and summaries come back as float16.
    """
    towers = Towers(towers_folder)
    fingerprint = hash_files([towers_folder / name for name in FILES])
    starts = range(0, items.num_rows, block_rows)
    blocks = [
        _load_block(items.slice(start, block_rows), towers=towers, fingerprint=fingerprint, cache=cache)
        for start in track(starts, description="towers", console=Console(stderr=True))
    ]
    return _concatenate(blocks)


def select_rows(features: Features, rows: np.ndarray) -> Features:
    """The given rows, in the given order."""
    return Features(**{name: array[rows] for name, array in vars(features).items()})


def replace_words(features: Features, towers: Towers, words: Sequence[str]) -> Features:
    """The same rows with other words: what a picture and a wish are searched with."""
    tokens_BTW, token_mask_BT, text_BR = towers.read(words)
    return replace(
        features,
        text_BR=text_BR,
        captions_BR=text_BR,
        tokens_BTW=tokens_BTW,
        token_mask_BT=token_mask_BT,
        has_text_B=np.ones(len(words), bool),
    )


def keep_modalities(features: Features, *, image: bool, text: bool) -> Features:
    """The same rows with a modality masked out."""
    return replace(features, has_image_B=features.has_image_B & image, has_text_B=features.has_text_B & text)


def first_captions(items: pa.Table) -> list[str | None]:
    """The text of each item: its first caption, or None."""
    return [captions[0] if captions else None for captions in items["captions"].to_pylist()]


def number_twins(items: pa.Table) -> np.ndarray:
    """Numbers of ``items``, int (N,), equal where the text or the picture is."""
    texts = [text or f"\0{n}" for n, text in enumerate(first_captions(items))]
    return connect_rows(find_equals(texts) + find_equals(items["sha256"].to_pylist()), count=items.num_rows)


def _load_block(items: pa.Table, *, towers: Towers, fingerprint: str, cache: Path) -> Features:
    captions, images = items["captions"].to_pylist(), items["image"].to_pylist()
    key = hashlib.sha256(fingerprint.encode())
    for sha, texts, image in zip(items["sha256"].to_pylist(), captions, images, strict=True):
        key.update(f"{sha}|{hashlib.sha256(image).hexdigest()}|{texts}\n".encode())
    path = cache / f"{key.hexdigest()[:32]}.npz"
    if path.exists():
        with np.load(path) as arrays:
            return Features(**{name: arrays[name] for name in arrays.files})
    block = _compute_block(images, first_captions(items), towers=towers)
    block = _average_captions(block, [texts or [] for texts in captions], towers=towers)
    cache.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}-{path.name}")
    np.savez(beside, **vars(block))
    os.replace(beside, path)
    return block


def _compute_block(images: Sequence[bytes], texts: Sequence[str | None], *, towers: Towers) -> Features:
    parts = [
        compute_features(
            towers,
            [decode_png(image) for image in images[start : start + BATCH]],
            texts[start : start + BATCH],
        )
        for start in range(0, len(images), BATCH)
    ]
    return _concatenate([Features(**{name: _halve(array) for name, array in vars(part).items()}) for part in parts])


def _average_captions(block: Features, captions: Sequence[Sequence[str]], *, towers: Towers) -> Features:
    """Let ``captions_BR`` be the mean over all captions; it is the first one's so far."""
    others = [(row, text) for row, texts in enumerate(captions) for text in texts[1:]]
    total_BR = block.text_BR.astype(np.float32)
    for start in range(0, len(others), BATCH):
        rows, texts = zip(*others[start : start + BATCH], strict=True)
        np.add.at(total_BR, list(rows), towers.read(texts)[2])
    count_B1 = np.array([[max(len(texts), 1)] for texts in captions])
    return replace(block, captions_BR=_halve(total_BR / count_B1))


def _halve(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16) if array.dtype == np.float32 else array


def _concatenate(parts: Sequence[Features]) -> Features:
    longest = max(part.tokens_BTW.shape[1] for part in parts)

    def pad(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, 0), (0, longest - array.shape[1])] + [(0, 0)] * (array.ndim - 2))

    padded = {"tokens_BTW", "token_mask_BT"}
    return Features(
        **{
            name: np.concatenate(
                [pad(getattr(part, name)) if name in padded else getattr(part, name) for part in parts]
            )
            for name in vars(parts[0])
        }
    )
