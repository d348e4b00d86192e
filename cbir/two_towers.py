"""Both towers under projections into one space, as they are fine-tuned, and how fast each of their layers learns.

Shapes: B batch, D dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cbir.params import FineTuneParams
from cbir.similarity import Similarity
from cbir.towers.text import TextTower
from cbir.towers.visual import VisualTower

PROJECTIONS = ("proj", "projection", "text_projection")  # names of what ends a tower
DEPTHS = 12  # steps of the learning rate through a tower


class TwoTowers(nn.Module):
    """Both towers under a projection each; where both are of one open_clip model their own space is kept."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self, visual: VisualTower, text: TextTower, *, dimensions: int, similarity: Similarity, one_space: bool
    ) -> None:
        super().__init__()
        self.visual, self.text, self.similarity = visual, text, similarity
        widths = visual.measure().blocks[0][0], text.measure().blocks[0][0]
        self.heads = nn.ModuleList(nn.Identity() if one_space else nn.Linear(width, dimensions) for width in widths)
        self._look, self._listen = visual.embed, text.embed
        visual.to(memory_format=torch.channels_last)  # in which convolutions are fastest
        mean, deviation = (torch.tensor(part)[:, None, None] for part in (visual.mean, visual.deviation))
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer("shift", mean / deviation, persistent=False)

    def compile_towers(self) -> None:
        """Let a training step run compiled; what is measured and exported of the towers stays as it was."""
        self._look, self._listen = torch.compile(self.visual.embed), torch.compile(self.text.embed, dynamic=True)

    def forward(
        self,
        pixels: torch.Tensor,
        other_pixels: torch.Tensor | None,
        ids: torch.Tensor,
        mask: torch.Tensor,
        has_text_B: torch.Tensor,
    ) -> torch.Tensor:
        """Vectors of the pictures, and of what answers them: the words, or the picture again; (2, B, D)."""
        image_BD = self._project_image(self._look(self._normalise(pixels)))
        answer_BD = self._project_text(self._listen(ids, mask))
        if other_pixels is not None:
            again_BD = self._project_image(self._look(self._normalise(other_pixels)))
            answer_BD = torch.where(has_text_B[:, None], answer_BD, again_BD)
        return torch.stack([image_BD, answer_BD])

    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels, uint8 (B, 3, side, side) -> vectors (B, D)."""
        return self._project_image(self.visual.embed(self._normalise(pixels)))

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Tokens -> vectors (B, D)."""
        return self._project_text(self.text.embed(ids, mask))

    def _normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels * self.scale - self.shift

    def _project_image(self, whole_BF: torch.Tensor) -> torch.Tensor:
        return self._finish(self.heads[0](whole_BF))

    def _project_text(self, whole_BF: torch.Tensor) -> torch.Tensor:
        return self._finish(self.heads[1](whole_BF))

    def _finish(self, vector_BD: torch.Tensor) -> torch.Tensor:
        return F.normalize(vector_BD, dim=1) if self.similarity == "cosine" else vector_BD


def list_groups(model: TwoTowers, params: FineTuneParams) -> list[dict[str, Any]]:
    """Parameters with their learning rates: heads, then each tower from its last layer to its first, ever lower.

    Layers are told by the order of parameters (Howard & Ruder 2018, discriminative fine-tuning), but for a tower's own
    projection: PyTorch names what a module itself holds before what its parts hold, and it is the last layer.
    """
    groups = [{"params": list(model.heads.parameters()), "lr": params.learning_rate}]
    for tower in (model.visual, model.text):
        named = [(name, weight) for name, weight in tower.named_parameters() if weight.requires_grad]
        weights = [weight for _, weight in sorted(named, key=lambda pair: pair[0].rpartition(".")[2] in PROJECTIONS)]
        for depth, rows in enumerate(reversed(np.array_split(np.arange(len(weights)), min(DEPTHS, len(weights) or 1)))):
            groups.append({"params": [weights[n] for n in rows], "lr": params.tower_rate * params.layer_decay**depth})
    return [group for group in groups if group["params"]]
