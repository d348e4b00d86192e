"""How the exported towers are run: ONNX Runtime, which on a CPU is several times faster than eager PyTorch.

Shapes: B batch, G grid cells (the pooled map, then 3 x 3 overlapping cells), V visual width, T text tokens, W text
width, S and R widths of the image's and the text's summary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image
from tokenizers import Tokenizer

from cbir.errors import TowerError
from cbir.towers.shape import FILE, TowerShapes, VisualShape

VISUAL_ONNX = "visual.onnx"
TEXT_ONNX = "text.onnx"
TOKENIZER = "tokenizer.json"
FILES = (FILE, VISUAL_ONNX, TEXT_ONNX, TOKENIZER)


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
        self._visual = ort.InferenceSession(str(folder / VISUAL_ONNX), providers=["CPUExecutionProvider"])
        self._text = ort.InferenceSession(str(folder / TEXT_ONNX), providers=["CPUExecutionProvider"])
        self._tokenizer = open_tokenizer(folder, max_tokens=self.shapes.text.max_tokens)

    def see(self, images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """RGB images -> grid tokens, float32 (B, G, V), and the summary, float32 (B, S)."""
        pixels = np.stack([normalise_pixels(image, self.shapes.visual) for image in images])
        tokens, summary = self._visual.run(None, {"pixels": pixels})
        return tokens, summary

    def read(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Texts -> token states, float32 (B, T, W), their mask, bool (B, T), and the summary, float32 (B, R)."""
        encodings = self._tokenizer.encode_batch(list(texts))
        ids = np.array([e.ids for e in encodings], dtype=np.int64)
        mask = np.array([e.attention_mask for e in encodings], dtype=np.int64)
        tokens, summary = self._text.run(None, {"ids": ids, "mask": mask})
        return tokens, mask.astype(bool), summary


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
