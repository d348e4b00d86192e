"""Which contrastive losses draw views of the same item, and items of the same label, together.

Shapes: B batch, D dimensions. Vectors are unit rows; every loss is a scalar tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def info_nce(
    query_BD: torch.Tensor, key_BD: torch.Tensor, *, same_BB: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Symmetric InfoNCE (van den Oord et al. 2018; CLIP, Radford et al. 2021).

    ``same_BB`` marks pairs that are no negatives although off the diagonal (equal captions or pictures).
    """
    logits_BB = query_BD @ key_BD.T / temperature
    eye_BB = torch.eye(len(logits_BB), dtype=torch.bool)
    logits_BB = logits_BB.masked_fill(same_BB & ~eye_BB, float("-inf"))
    target_B = torch.arange(len(logits_BB))
    return (F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)) / 2


def supervised_contrastive(vector_BD: torch.Tensor, *, positive_BB: torch.Tensor, temperature: float) -> torch.Tensor:
    """Supervised contrastive loss, L_out of Khosla et al. 2020; anchors without a positive are left out."""
    eye_BB = torch.eye(len(vector_BD), dtype=torch.bool)
    logits_BB = (vector_BD @ vector_BD.T / temperature).masked_fill(eye_BB, float("-inf"))
    log_probability_BB = F.log_softmax(logits_BB, dim=1).masked_fill(eye_BB, 0.0)
    positive_BB = positive_BB & ~eye_BB
    count_B = positive_BB.sum(1)
    if not bool(count_B.any()):
        return vector_BD.sum() * 0.0
    per_anchor_B = -(log_probability_BB * positive_BB).sum(1) / count_B.clamp(min=1)
    return per_anchor_B[count_B > 0].mean()
