"""How towers are written as ONNX, and that the written ones say what the built ones do."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F
from torch import nn

from cbir.errors import TowerError
from cbir.towers.run import TEXT_ONNX, VISUAL_ONNX, open_tokenizer
from cbir.towers.shape import TowerShapes
from cbir.towers.text import TextTower, tokenise
from cbir.towers.visual import VisualTower

PARITY = 0.9999  # least cosine between what PyTorch and ONNX Runtime put out
OUTPUTS = ("tokens", "summary")
TEXTS = ("a red apple", "two dogs", "a girl who plays the violin in the rain, seen from behind")


def export_towers(visual: VisualTower, text: TextTower, folder: Path) -> None:
    """Write both towers, the tokenizer and their sizes into ``folder``.

    Raises:
        TowerError: an exported tower disagrees with the one it was exported from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes = TowerShapes(visual=visual.measure(), text=text.measure())
    shapes.save(folder)
    text.save_tokenizer(folder)
    rng = torch.Generator().manual_seed(0)
    side = shapes.visual.image_size
    two, three = (torch.rand(count, 3, side, side, generator=rng) * 2 - 1 for count in (2, 3))
    export_module(visual, {"pixels": two}, {"pixels": three}, folder / VISUAL_ONNX, outputs=OUTPUTS, axes={})
    tokenizer = open_tokenizer(folder, max_tokens=shapes.text.max_tokens)
    short, long = (dict(zip(("ids", "mask"), tokenise(tokenizer, texts), strict=True)) for texts in (TEXTS[:2], TEXTS))
    tokens = {0: "batch", 1: "tokens"}
    export_module(
        text, short, long, folder / TEXT_ONNX, outputs=OUTPUTS, axes={"ids": tokens, "mask": tokens, "tokens": tokens}
    )


def export_module(
    module: nn.Module,
    example: dict[str, torch.Tensor],
    other: dict[str, torch.Tensor],
    path: Path,
    *,
    outputs: tuple[str, ...],
    axes: dict[str, dict[int, str]],
) -> None:
    """Write ``module`` as ONNX by ``example``, and compare what both make of ``other``, of another length.

    Names are the inputs'. ``axes`` are those that vary beside the first.

    Raises:
        TowerError: a row of an output has a cosine below 0.9999 to the original's.
    """
    module = _unroll_attention(module).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what tracing cannot follow: what comes of it is compared below
        torch.onnx.export(
            module,
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in (*example, *outputs)} | axes,
            dynamo=False,
            opset_version=17,
        )
        expected = module(*other.values())
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {name: tensor.numpy() for name, tensor in other.items()})
    for name, ours, theirs in zip(outputs, got, expected if isinstance(expected, tuple) else (expected,), strict=True):
        if (least := _compare_rows(ours, theirs.numpy())) < PARITY:
            raise TowerError(
                f"{path.name}: {name} has a cosine of {least:.5f} to what PyTorch computes, under {PARITY}; "
                "choose another tower in params.yaml, and report this."
            )


class _Attention(nn.Module):
    """What ``nn.MultiheadAttention`` computes, without the sizes that tracing would freeze."""

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.out = original.num_heads, original.out_proj
        self.weight, self.bias = original.in_proj_weight, original.in_proj_bias

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        weights, biases = self.weight.chunk(3), (None,) * 3 if self.bias is None else self.bias.chunk(3)
        query, key, value = (
            self._split(F.linear(*part)) for part in zip((query, key, value), weights, biases, strict=True)
        )
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)
        return self.out(found.transpose(1, 2).flatten(2)), None

    def _split(self, states: torch.Tensor) -> torch.Tensor:
        return states.reshape(*states.shape[:2], self.heads, -1).transpose(1, 2)


def _unroll_attention(module: nn.Module) -> nn.Module:
    """A copy with every batch-first ``nn.MultiheadAttention`` replaced."""
    if not any(isinstance(part, nn.MultiheadAttention) for part in module.modules()):
        return module
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.MultiheadAttention) and part.batch_first and part.in_proj_weight is not None:
                setattr(parent, name, _Attention(part))
    return module


def _compare_rows(a: Any, b: Any) -> float:
    """The least cosine of two arrays' rows; 1 for rows that are zero in both."""
    a, b = (np.asarray(part, np.float64).reshape(len(part), -1) for part in (a, b))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = np.where(lengths > 0, (a * b).sum(1) / np.maximum(lengths, 1e-300), 1.0)
    return float(np.where((lengths == 0) & (np.abs(a - b).max(1) > 0), 0.0, same).min())
