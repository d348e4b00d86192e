"""Which losses draw views of the same item, and items of the same label, together.

Shapes: B batch, D dimensions, L labels. Vectors are unit rows; every loss is a scalar tensor.
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


def proxy_loss(
    vector_BD: torch.Tensor, proxy_LD: torch.Tensor, *, label_BL: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Cross-entropy to one learned unit vector a label (Movshovitz-Attias et al. 2017; Zhai & Wu 2019).

    Rows of ``label_BL`` (0 or 1) without a label are left out; a tenth of each target is spread over all labels.
    """
    count_B = label_BL.sum(1)
    if not bool(count_B.any()):
        return vector_BD.sum() * 0.0
    some = count_B > 0
    logits = vector_BD[some] @ F.normalize(proxy_LD, dim=1).T / temperature
    return F.cross_entropy(logits, label_BL[some] / count_B[some, None], label_smoothing=0.1)
