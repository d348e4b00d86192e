"""How the outputs of the frozen towers are computed once and kept, by content.

Shapes: N items, B rows, G grid cells, V visual width, T text tokens, W text width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from cbir.encoder import Features, compute_features
from cbir.feature_store import FeatureStore, pad_tokens
from cbir.images import decode_png
from cbir.progress import follow
from cbir.records import cut_table
from cbir.towers.run import FILES, Towers, hash_files

BATCH = 128
BLOCK = 500
CACHE = Path(".cbir/features")  # in the folder that a stage runs in, the workspace


def load_features(items: pa.Table, *, towers_folder: Path, cache: Path = CACHE, block_rows: int = BLOCK) -> Features:
    """Tower outputs of every row of ``items`` (columns image, sha256, captions), from ``cache`` or computed.

    An item's text is its first caption; the others count in ``captions_BR``. Tokens and summaries come back as float16.
    """
    blocks = cut_table(items, block_rows)
    found = iterate_features(blocks, count=len(blocks), towers_folder=towers_folder, cache=cache)
    first = next(found)
    arrays = {name: np.empty((len(items), *part.shape[1:]), part.dtype) for name, part in vars(first).items()}
    whole, stop = Features(**arrays), 0
    for block in chain([first], found):  # into their places: as parts of a whole they would be in memory twice
        longest = max(part.tokens_BTW.shape[1] for part in (whole, block))
        whole, fitted = pad_tokens(whole, longest), pad_tokens(block, longest)
        start, stop = stop, stop + len(block.has_image_B)
        for name, array in vars(fitted).items():
            getattr(whole, name)[start:stop] = array
    return whole


def iterate_features(
    blocks: Iterable[pa.Table],
    *,
    count: int,
    towers_folder: Path,
    cache: Path = CACHE,
    towers: Towers | None = None,
) -> Iterator[Features]:
    """The same of one block of items after the other, so that a whole catalogue need not fit in memory.

    ``count``: of blocks. ``towers``: those of the folder, where they are open already.
    """
    towers = towers or Towers(towers_folder)
    store = FeatureStore(cache, towers=hash_files([towers_folder / name for name in FILES]))
    for block in follow(blocks, total=count, description="towers, blocks of items"):
        keys = _name_items(block)
        fresh = {key: row for row, key in enumerate(keys) if key not in store}
        if fresh:
            store.write(list(fresh), _compute_items(block.take(list(fresh.values())), towers=towers))
        yield store.read(keys)


def select_rows(features: Features, rows: np.ndarray) -> Features:
    """The given rows, in the given order; all of them as they are, and not a copy."""
    if np.array_equal(rows, np.arange(len(features.has_image_B))):
        return features
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


def add_words(features: Features, towers: Towers, words: Sequence[str | None]) -> Features:
    """The same rows, where one without words has its own of ``words``, as far as there is one."""
    rows = [n for n, text in enumerate(words) if text and not features.has_text_B[n]]
    texts = sorted({words[row] or "" for row in rows})
    if not texts:
        return features
    place = {text: n for n, text in enumerate(texts)}
    read = np.array([place[words[row] or ""] for row in rows])
    tokens_UTW, mask_UT, text_UR = towers.read(texts)
    longest = max(tokens_UTW.shape[1], features.tokens_BTW.shape[1])
    written = ("text_BR", "captions_BR", "tokens_BTW", "token_mask_BT", "has_text_B")
    told = pad_tokens(features, longest)
    told = replace(told, **{name: getattr(told, name).copy() for name in written})
    told.tokens_BTW[rows, : tokens_UTW.shape[1]] = (tokens_UTW * mask_UT[..., None])[read]
    told.token_mask_BT[rows, : mask_UT.shape[1]] = mask_UT[read]
    told.text_BR[rows] = told.captions_BR[rows] = text_UR[read]
    told.has_text_B[rows] = True
    return told


def keep_modalities(features: Features, *, image: bool, text: bool) -> Features:
    """The same rows with a modality masked out."""
    return replace(features, has_image_B=features.has_image_B & image, has_text_B=features.has_text_B & text)


def first_captions(items: pa.Table) -> list[str | None]:
    """The text of each item: its first caption, or None."""
    return [captions[0] if captions else None for captions in items["captions"].to_pylist()]


def _name_items(items: pa.Table) -> list[str]:
    """A key of each item, of what the towers see of it."""
    columns = (items[name].to_pylist() for name in ("sha256", "image", "captions"))
    parts = (f"{sha}|{hashlib.sha256(image).hexdigest()}|{texts}" for sha, image, texts in zip(*columns, strict=True))
    return [hashlib.sha256(part.encode()).hexdigest()[:32] for part in parts]


def _compute_items(items: pa.Table, *, towers: Towers) -> Features:
    captions = items["captions"].to_pylist()
    block = _compute_block(items["image"].to_pylist(), first_captions(items), towers=towers)
    return _average_captions(block, [texts or [] for texts in captions], towers=towers)


def _compute_block(images: Sequence[bytes], texts: Sequence[str | None], *, towers: Towers) -> Features:
    parts = [
        compute_features(
            towers,
            towers.map(decode_png, images[start : start + BATCH]),
            texts[start : start + BATCH],
        )
        for start in range(0, len(images), BATCH)
    ]
    block = _concatenate([Features(**{name: _halve(array) for name, array in vars(part).items()}) for part in parts])
    return replace(block, tokens_BTW=block.tokens_BTW * block.token_mask_BT[..., None])  # what is masked is no output


def _average_captions(block: Features, captions: Sequence[Sequence[str]], *, towers: Towers) -> Features:
    """Let ``captions_BR`` be the mean over all captions; it is the first one's so far."""
    others = [(row, text) for row, texts in enumerate(captions) for text in texts[1:]]
    total_BR = block.text_BR.astype(np.float32)
    for start in range(0, len(others), BATCH):
        rows, texts = zip(*others[start : start + BATCH], strict=True)
        np.add.at(total_BR, list(rows), towers.read(texts)[2])
    count_B1 = np.array([[max(len(texts), 1)] for texts in captions], dtype=np.float32)
    return replace(block, captions_BR=_halve(total_BR / count_B1))


def _halve(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16) if array.dtype == np.float32 else array


def _concatenate(parts: Sequence[Features]) -> Features:
    longest = max(part.tokens_BTW.shape[1] for part in parts)
    padded = [pad_tokens(part, longest) for part in parts]
    return Features(**{name: np.concatenate([getattr(part, name) for part in padded]) for name in vars(parts[0])})
