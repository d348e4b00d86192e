"""Which losses draw views of the same item, and items of the same label, together.

Shapes: B batch, D dimensions, L labels. ``code_B`` are numbers, equal where two rows belong together; every loss is a
scalar tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from cbir.similarity import Similarity, compare_vectors

SIGLIP_BIAS = -10.0
PairLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # of queries, their keys, and codes


def info_nce(
    query_BD: torch.Tensor,
    key_BD: torch.Tensor,
    *,
    code_B: torch.Tensor,
    temperature: float,
    similarity: Similarity = "cosine",
) -> torch.Tensor:
    """Symmetric InfoNCE (van den Oord et al. 2018; CLIP, Radford et al. 2021).

    A query's key is in its own row; others of the same code (equal captions or pictures) are no negatives.
    """
    logits_BB = compare_vectors(query_BD, key_BD, similarity) / temperature
    logits_BB = logits_BB.masked_fill(_find_twins(code_B), float("-inf"))
    target_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)) / 2


def sigmoid_loss(
    query_BD: torch.Tensor,
    key_BD: torch.Tensor,
    *,
    code_B: torch.Tensor,
    temperature: float,
    similarity: Similarity = "cosine",
) -> torch.Tensor:
    """Every pair is a question of its own (SigLIP; Zhai et al. 2023, Sigmoid loss for language image pre-training).

    The bias is the paper's start and stays; others of the same code are not asked about.
    """
    logits_BB = compare_vectors(query_BD, key_BD, similarity) / temperature + SIGLIP_BIAS
    sign_BB = 2 * torch.eye(len(logits_BB), device=logits_BB.device) - 1
    asked_BB = (~_find_twins(code_B)).to(logits_BB.dtype)
    return -(F.logsigmoid(sign_BB * logits_BB) * asked_BB).sum() / len(logits_BB)


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
    logits = F.normalize(vector_BD[some], dim=1) @ F.normalize(proxy_LD, dim=1).T / temperature
    return F.cross_entropy(logits, label_BL[some] / count_B[some, None], label_smoothing=0.1)


def _find_twins(code_B: torch.Tensor) -> torch.Tensor:
    """Pairs of one code off the diagonal, bool (B, B)."""
    same_BB = code_B[:, None] == code_B[None, :]
    return same_BB & ~torch.eye(len(code_B), dtype=torch.bool, device=code_B.device)
