"""Which loss ``train.loss`` names: ours, or those of pytorch-metric-learning with their miners."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from cbir.errors import ParamsError
from cbir.losses import PairLoss, info_nce, sigmoid_loss
from cbir.params import LossName
from cbir.similarity import Similarity

MARGIN = 0.2  # of triplets, as FaceNet's
SHARED = ("supervised_contrastive",)  # losses whose codes are labels, not instances


def make_pair_loss(name: LossName, *, temperature: float, similarity: Similarity) -> PairLoss:
    """The loss of queries and their keys, both (B, D), by codes (B,) that are equal where rows belong together.

    Raises:
        ParamsError: the loss is not defined for the similarity.
    """
    if name in ("info_nce", "sigmoid"):
        ours = {"info_nce": info_nce, "sigmoid": sigmoid_loss}[name]
        loss = partial(ours, temperature=temperature, similarity=similarity)
        return lambda query_BD, key_BD, code_B: loss(query_BD, key_BD, code_B=code_B)
    if name in ("contrastive", "multi_similarity") and similarity != "cosine":
        raise ParamsError(
            f"params.yaml: train.loss {name} is defined by margins of the cosine; "
            f"set train.similarity to cosine, or take another loss than {name} for {similarity}."
        )
    loss, miner = _build(name, temperature=temperature, similarity=similarity)

    def compare(query_BD: torch.Tensor, key_BD: torch.Tensor, code_B: torch.Tensor) -> torch.Tensor:
        both = [(query_BD, key_BD), (key_BD, query_BD)]
        return torch.stack([_apply(loss, miner, a, b, code_B) for a, b in both]).mean()

    return compare


def _apply(loss: Any, miner: Any, query_BD: torch.Tensor, key_BD: torch.Tensor, code_B: torch.Tensor) -> torch.Tensor:
    keys = {"ref_emb": key_BD, "ref_labels": code_B.clone()}  # of the same labels it takes queries for their own keys
    chosen = miner(query_BD, code_B, **keys) if miner else None
    return loss(query_BD, code_B, indices_tuple=chosen, **keys)


def _build(name: LossName, *, temperature: float, similarity: Similarity) -> tuple[Any, Any]:
    """The loss and its miner, or None where it takes all pairs."""
    from pytorch_metric_learning import distances, losses, miners

    distance = {
        "cosine": distances.CosineSimilarity(),
        "dot": distances.DotProductSimilarity(normalize_embeddings=False),
        "euclidean": distances.LpDistance(normalize_embeddings=False, power=2),
    }[similarity]
    match name:
        case "triplet_semihard":  # Schroff et al. 2015, FaceNet
            miner = miners.TripletMarginMiner(margin=MARGIN, type_of_triplets="semihard", distance=distance)
            return losses.TripletMarginLoss(margin=MARGIN, distance=distance), miner
        case "triplet_hardest":  # Hermans et al. 2017, In defense of the triplet loss
            return losses.TripletMarginLoss(margin=MARGIN, distance=distance), miners.BatchHardMiner(distance=distance)
        case "contrastive":  # siamese; Hadsell et al. 2006
            return losses.ContrastiveLoss(pos_margin=1.0, neg_margin=0.3, distance=distance), None
        case "supervised_contrastive":  # Khosla et al. 2020
            return losses.SupConLoss(temperature=temperature, distance=distance), None
        case "multi_similarity":  # Wang et al. 2019
            return losses.MultiSimilarityLoss(distance=distance), miners.MultiSimilarityMiner(distance=distance)
    raise AssertionError(f"params checks the names; {name} is none")
