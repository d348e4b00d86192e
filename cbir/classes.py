"""What the visual tower's own classifier names in a picture, as words.

A catalogue of a few thousand captions teaches few of the words that people search with. The tower was trained on a
thousand named classes: the mean of the text vectors of the classes it sees, weighted by how much it sees them, says
something about things that no caption has named (ConSE; Norouzi et al. 2014, Zero-shot learning by convex combination
of semantic embeddings).

Shapes: B batch, C classes, V visual width, W words, R width of the text summary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

TEMPERATURE = 1.5  # of the softmax over classes


@dataclass(frozen=True)
class Classes:
    """A tower's classifier, weights (C, V) and bias (C,), and the text summaries (C, R) of the classes' names."""

    weight_CV: np.ndarray
    bias_C: np.ndarray
    text_CR: np.ndarray


class NamedClasses(nn.Module):
    """Pooled output of the visual tower -> words; fitted once, nothing in it is trained by gradient."""

    weight_CV: torch.Tensor
    bias_C: torch.Tensor
    word_CW: torch.Tensor

    def __init__(self, *, classes: int, visual_width: int, words: int) -> None:
        super().__init__()
        self.register_buffer("weight_CV", torch.zeros(classes, visual_width, dtype=torch.float16))
        self.register_buffer("bias_C", torch.zeros(classes))
        self.register_buffer("word_CW", torch.zeros(classes, words))

    def forward(self, pooled_BV: torch.Tensor) -> torch.Tensor:
        """Unit vectors of words (B, W); zeros where there are no classes or no words."""
        return F.normalize(self._mix(pooled_BV), dim=1)

    def fit(self, pooled_NV: torch.Tensor, *, classes: Classes, word_CW: torch.Tensor) -> None:
        """Take over ``classes`` and their words, and let the mean item of the catalogue say nothing."""
        self.weight_CV.copy_(torch.from_numpy(classes.weight_CV))
        self.bias_C.copy_(torch.from_numpy(classes.bias_C))
        self.word_CW.copy_(word_CW)
        if len(pooled_NV) and len(word_CW):
            self.bias_C -= self._score(pooled_NV).mean(0)
            self.word_CW -= self._mix(pooled_NV).mean(0)

    def _score(self, pooled_BV: torch.Tensor) -> torch.Tensor:
        return pooled_BV @ self.weight_CV.to(pooled_BV.dtype).T + self.bias_C

    def _mix(self, pooled_BV: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self._score(pooled_BV) / TEMPERATURE, dim=1) @ self.word_CW
