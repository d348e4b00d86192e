"""How grid tokens and text tokens become one vector.

A query vector, the mean of the projected modalities that are there, attends over the grid tokens and the
text tokens; what it finds is added through a branch that starts at zero. So before training the fusion is
the plain sum of PCA projections, and training can only move away from it where that lowers the loss.

Shapes: B batch, G grid cells (the first is the mean of all), T text tokens, V visual width, W text width,
D dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Fusion(nn.Module):
    """Image and text tokens -> unit vectors; either modality may be missing in any row."""

    def __init__(self, *, visual_width: int, text_width: int, dimensions: int, dropout: float, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.visual = nn.Linear(visual_width, dimensions)
        self.text = nn.Linear(text_width, dimensions)
        self.visual_residual = _zero_residual(visual_width, dimensions, dropout=dropout)
        self.text_residual = _zero_residual(text_width, dimensions, dropout=dropout)
        self.grid_keys = nn.Linear(visual_width, 2 * dimensions)
        self.token_keys = nn.Linear(text_width, 2 * dimensions)
        self.query = nn.Linear(dimensions, dimensions)
        self.found = _zero_linear(dimensions, dimensions)
        self.mix = _zero_residual(3 * dimensions, dimensions, dropout=dropout)

    def forward(
        self,
        grid_BGV: torch.Tensor,
        tokens_BTW: torch.Tensor,
        *,
        token_mask_BT: torch.Tensor,
        has_image_B: torch.Tensor,
        has_text_B: torch.Tensor,
    ) -> torch.Tensor:
        """Return unit vectors (B, D). Rows of a missing modality are ignored, whatever they hold."""
        image_BD = self._see(grid_BGV) * has_image_B[:, None]
        text_BD = self._read(tokens_BTW, token_mask_BT) * has_text_B[:, None]
        base_BD = F.normalize(image_BD + text_BD, dim=1)
        found_BD = self._attend(base_BD, grid_BGV, tokens_BTW, token_mask_BT, has_image_B, has_text_B)
        mixed_BD = self.mix(torch.cat([image_BD, text_BD, image_BD * text_BD], dim=1))
        return F.normalize(base_BD + self.found(found_BD) + mixed_BD, dim=1)

    def _see(self, grid_BGV: torch.Tensor) -> torch.Tensor:
        pooled_BV = F.normalize(grid_BGV[:, 0], dim=1)
        return F.normalize(self.visual(pooled_BV) + self.visual_residual(pooled_BV), dim=1)

    def _read(self, tokens_BTW: torch.Tensor, token_mask_BT: torch.Tensor) -> torch.Tensor:
        pooled_BW = F.normalize((tokens_BTW * token_mask_BT[..., None]).sum(1), dim=1)
        return F.normalize(self.text(pooled_BW) + self.text_residual(pooled_BW), dim=1)

    def _attend(
        self,
        base_BD: torch.Tensor,
        grid_BGV: torch.Tensor,
        tokens_BTW: torch.Tensor,
        token_mask_BT: torch.Tensor,
        has_image_B: torch.Tensor,
        has_text_B: torch.Tensor,
    ) -> torch.Tensor:
        key_value = torch.cat([self.grid_keys(grid_BGV), self.token_keys(tokens_BTW)], dim=1)
        key, value = (self._split_heads(part) for part in key_value.chunk(2, dim=2))
        there = torch.cat(
            [has_image_B[:, None].expand(-1, grid_BGV.shape[1]), token_mask_BT & has_text_B[:, None]], dim=1
        )
        query = self._split_heads(self.query(base_BD)[:, None])
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=there[:, None, None, :])
        return found.transpose(1, 2).flatten(1)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.reshape(*states.shape[:2], self.heads, -1).transpose(1, 2)


def _zero_linear(width_in: int, width_out: int) -> nn.Linear:
    linear = nn.Linear(width_in, width_out)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _zero_residual(width_in: int, width_out: int, *, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, 2 * width_out),
        nn.GELU(),
        nn.Dropout(dropout),
        _zero_linear(2 * width_out, width_out),
    )


def set_projection(linear: nn.Linear, *, mean: torch.Tensor, components: torch.Tensor) -> None:
    """Make ``linear`` the PCA projection ``components @ (x - mean)``; rows missing from it become zero."""
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight[: len(components)] = components
        linear.bias.copy_(-linear.weight @ mean)
