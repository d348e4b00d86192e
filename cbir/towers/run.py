"""How the exported towers are run: ONNX Runtime, which on a CPU is several times faster than eager PyTorch.

A thread for each core takes a few rows at a time through a session of one thread: that is faster than all cores at one
row, decodes beside it, and gives the same bits on any number of cores.

Shapes: B batch, G grid cells (the pooled map, then 3 x 3 overlapping cells), V visual width, T text tokens, W text
width, S and R widths of the image's and the text's summary.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime as ort
from PIL import Image
from tokenizers import Tokenizer

from cbir.errors import TowerError
from cbir.towers.shape import FILE, TowerShapes, VisualShape

VISUAL_ONNX = "visual.onnx"
TEXT_ONNX = "text.onnx"
TOKENIZER = "tokenizer.json"
ROWS = 8  # that a thread takes at a time
FILES = (FILE, VISUAL_ONNX, TEXT_ONNX, TOKENIZER)
A = TypeVar("A")
B = TypeVar("B")


class Towers:
    """The two frozen towers, open and ready to run on the CPU."""

    def __init__(self, folder: Path) -> None:
        """Open the towers in ``folder``.

        Raises:
            TowerError: a file is missing.
        """
        for name in FILES:
            if not (folder / name).exists():
                raise TowerError(f"{folder / name} is missing; run `dvc repro train`, or `dvc pull`.")
        self.shapes = TowerShapes.load(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._visual, self._text = (
            ort.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in (VISUAL_ONNX, TEXT_ONNX)
        )
        self._threads = ThreadPoolExecutor(count_cores())
        self._tokenizer = open_tokenizer(folder, max_tokens=self.shapes.text.max_tokens)

    def map(self, work: Callable[[A], B], rows: Sequence[A]) -> list[B]:
        """``work`` for each of ``rows``, in their order, on the threads that the towers run on."""
        return [work(row) for row in rows] if len(rows) < 2 else list(self._threads.map(work, rows))

    def see(self, images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """RGB images -> grid tokens, float32 (B, G, V), and the summary, float32 (B, S)."""

        def run(part: Sequence[Image.Image]) -> Sequence[np.ndarray]:
            pixels = np.stack([normalise_pixels(image, self.shapes.visual) for image in part])
            return self._visual.run(None, {"pixels": pixels})

        tokens, summaries = zip(*self.map(run, _cut(images)), strict=True)
        return np.concatenate(tokens), np.concatenate(summaries)

    def read(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Texts -> token states, float32 (B, T, W), their mask, bool (B, T), and the summary, float32 (B, R)."""

        def run(part: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            encodings = self._tokenizer.encode_batch(list(part))
            ids = np.array([e.ids for e in encodings], dtype=np.int64)
            mask = np.array([e.attention_mask for e in encodings], dtype=np.int64)
            tokens, summary = self._text.run(None, {"ids": ids, "mask": mask})
            return tokens, mask.astype(bool), summary

        tokens, masks, summaries = zip(*self.map(run, _cut(texts)), strict=True)
        longest = max(mask.shape[1] for mask in masks)
        tokens_BTW, mask_BT = (np.concatenate([_pad(part, longest) for part in parts]) for parts in (tokens, masks))
        return tokens_BTW, mask_BT, np.concatenate(summaries)


def count_cores() -> int:
    """Cores that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cut(rows: Sequence[A]) -> list[Sequence[A]]:
    return [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]


def _pad(array: np.ndarray, length: int) -> np.ndarray:
    """``array`` (B, T, ...) with zeros up to T of ``length``."""
    return np.pad(array, [(0, 0), (0, length - array.shape[1])] + [(0, 0)] * (array.ndim - 2))


def open_tokenizer(folder: Path, *, max_tokens: int) -> Tokenizer:
    """The tokenizer in ``folder``; texts are cut to ``max_tokens`` and padded to the longest of a batch."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding()
    return tokenizer


def normalise_pixels(image: Image.Image, shape: VisualShape) -> np.ndarray:
    """RGB image -> float32 (3, side, side), less the mean and over the deviation that the tower was trained with."""
    side = (shape.image_size, shape.image_size)
    if image.size != side:
        image = image.resize(side, Image.Resampling.BICUBIC)
    mean, deviation = (np.array(part, np.float32) for part in (shape.mean, shape.deviation))
    pixels = np.asarray(image, dtype=np.float32) * (1 / (255 * deviation)) - mean / deviation
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 over the names and bytes of ``paths``, 64 hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
