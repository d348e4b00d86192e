"""How a fusion starts: heads solved in closed form, projections aligned, and what is known of the training items.

Shapes: N training items, L labels, C components of them, W components of the words, R width of the text summary,
O outputs of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cbir.classes import Classes
from cbir.encoder import Features
from cbir.fusing import build_fusion
from cbir.fusion import Evidence, Fusion, FusionConfig, name_opinions
from cbir.kernel import BLOCK, Blocks, KernelHead, draw_folds, fit_kernel_head
from cbir.params import TrainParams
from cbir.projections import align_projections, find_directions, spread_projections, whiten_appearance, whiten_changes
from cbir.towers.shape import GRID_CELLS, TowerShapes

WORDS = 512
APPEARANCE = 256


@dataclass(frozen=True)
class _Words:
    """The principal components (W, R) of the normalised text summary, its mean (R,), and each item's words (N, W).

    An item's words are the mean over its captions: what one leaves out another says.
    """

    components_WR: np.ndarray
    mean_R: np.ndarray
    word_NW: np.ndarray
    length: float  # root mean square, of the items that have a text


@dataclass(frozen=True, kw_only=True)
class _Heads:
    """The kernel heads, the words that the image's reads, and what each says of the rows it was solved without."""

    image: KernelHead
    text: KernelHead
    both: KernelHead
    words: _Words
    image_NO: np.ndarray
    text_NC: np.ndarray
    both_NC: np.ndarray


def start_fusion(
    features: Features,
    label_NL: np.ndarray,
    *,
    basis_LC: np.ndarray,
    cluster_N: np.ndarray,
    classes: Classes,
    shapes: TowerShapes,
    params: TrainParams,
    copies: Sequence[Features] = (),
) -> tuple[Fusion, FusionConfig, Evidence]:
    """A fusion with solved heads and aligned projections, and the cross-fitted evidence of the training items.

    A catalogue may lack captions, labels, or both: the parts that would hold them then have width 0. One that lacks
    both has ``copies``, the towers' outputs of changed copies of its pictures.
    """
    rng = np.random.default_rng(params.seed)
    label_NC = (label_NL - label_NL.mean(0)) @ basis_LC
    labels = label_NC.shape[1]
    heads = _fit_heads(features, label_NC, shapes=shapes, cluster_N=cluster_N, rng=rng)
    words = heads.words
    config = FusionConfig(
        visual_width=shapes.visual.width,
        text_width=shapes.text.width,
        grid_cells=GRID_CELLS,
        dimensions=params.dimensions,
        labels=labels,
        words=len(words.components_WR),
        kept=min(len(words.components_WR), params.dimensions // 3),
        classes=len(classes.bias_C),
        appearance=0 if copies else min(APPEARANCE, params.dimensions),
        image_landmarks=len(heads.image.landmark_MC),
        text_landmarks=len(heads.text.landmark_MC),
        both_landmarks=len(heads.both.landmark_MC),
        label_shares=(params.label_share_alone, params.label_share_both),
        appearance_shares=(params.appearance_share_alone, params.appearance_share_both),
        similarity=params.similarity,
        late={str(name): share for name, share in params.late.items()},
    )
    fusion = build_fusion(config, shapes, dropout=params.dropout)
    fusion.image_head, fusion.text_head, fusion.both_head = heads.image, heads.text, heads.both
    _set_reader(fusion, words)
    _set_named(fusion, features, classes=classes)
    fusion.late.fit(torch.from_numpy(features.image_BS[features.has_image_B]))
    evidence = _assemble_rows(fusion, features, heads)
    if copies:
        copy_CNE = torch.stack([assemble_evidence(fusion, one).image_BE for one in copies])
        whiten_changes(fusion, evidence.image_BE, copy_CNE=copy_CNE, mate_P2=pair_mates(cluster_N))
        return fusion, config, evidence
    seen = np.flatnonzero(features.has_image_B)
    if len(seen) > 1:
        whiten_appearance(fusion, evidence.image_BE[seen], mate_P2=pair_mates(cluster_N[seen]))
    both = torch.from_numpy(np.flatnonzero(features.has_image_B & features.has_text_B))
    if len(both) > 1:
        align_projections(fusion, evidence.image_BE[both], evidence.text_BE[both])
    else:
        spread_projections(fusion, evidence, features.has_image_B, features.has_text_B)
    return fusion, config, evidence


def pair_mates(cluster_N: np.ndarray) -> np.ndarray:
    """Pairs of rows (P, 2) of one cluster: each row and the next, in a ring; a cluster of one has none."""
    order_N = np.argsort(cluster_N, kind="stable")
    _, start_C, size_C = np.unique(cluster_N[order_N], return_index=True, return_counts=True)
    following_N = np.arange(1, len(order_N) + 1)
    following_N[start_C + size_C - 1] = start_C
    paired_N2 = np.stack([order_N, order_N[following_N]], axis=1)
    return paired_N2[paired_N2[:, 0] != paired_N2[:, 1]]


def assemble_evidence(fusion: Fusion, features: Features) -> Evidence:
    """The evidence of rows that the heads have not seen."""
    image_BS, text_BR = (torch.from_numpy(part).float() for part in (features.image_BS, features.text_BR))
    with torch.no_grad():
        return fusion.judge(image_BS, text_BR)


def _assemble_rows(fusion: Fusion, features: Features, heads: _Heads) -> Evidence:
    """The evidence of the rows that the heads are of, by their cross-fitted predictions, a block of them at a time."""
    known = (features.image_BS, features.text_BR, heads.image_NO, heads.text_NC, heads.both_NC)
    parts = []
    for start in range(0, len(features.image_BS), BLOCK):
        arrays = (part[start : start + BLOCK] for part in known)
        image_BS, text_BR, image_BO, text_BL, both_BL = (torch.from_numpy(array).float() for array in arrays)
        parts.append(fusion.assemble(image_BS, text_BR, image_BO=image_BO, text_BL=text_BL, both_BL=both_BL))
    return Evidence(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def find_basis(label_NL: np.ndarray, *, most: int) -> np.ndarray:
    """The at most ``most`` principal directions of the labels, (L, C); C is 0 where there is nothing to tell apart."""
    directions_CL, strength_C = find_directions(label_NL - label_NL.mean(0), most=most)
    return np.ascontiguousarray(directions_CL[strength_C > 1e-3].T, dtype=np.float32)


def _find_words(text_head: KernelHead, features: Features) -> _Words:
    own_NR = text_head.normalise(torch.from_numpy(features.text_BR).float()).numpy()
    read = np.flatnonzero(features.has_text_B)
    mean_R = own_NR[read].mean(0) if len(read) else own_NR.mean(0)
    centred_NR = (own_NR - mean_R) * features.has_text_B[:, None]
    components_WR = find_directions(centred_NR[read], most=WORDS)[0].astype(np.float32)
    all_NR = text_head.normalise(torch.from_numpy(features.captions_BR).float()).numpy()
    word_NW = ((all_NR - mean_R) * features.has_text_B[:, None]) @ components_WR.T
    return _Words(components_WR, mean_R, word_NW, length=_measure(word_NW[read]))


def _set_reader(fusion: Fusion, words: _Words) -> None:
    reader_WR = torch.from_numpy(words.components_WR / max(words.length, 1e-9))
    fusion.read_words.weight.copy_(reader_WR)
    fusion.read_words.bias.copy_(-reader_WR @ torch.from_numpy(words.mean_R))


def _set_named(fusion: Fusion, features: Features, *, classes: Classes) -> None:
    pooled_NV = torch.from_numpy(features.image_BS[features.has_image_B, : fusion.head_width]).float()
    word_CW = fusion.read_words(fusion.text_head.normalise(torch.from_numpy(classes.text_CR)))
    fusion.named.fit(pooled_NV, classes=classes, word_CW=word_CW)


def _fit_heads(
    features: Features, label_NC: np.ndarray, *, shapes: TowerShapes, cluster_N: np.ndarray, rng: np.random.Generator
) -> _Heads:
    """Solve the three heads; that of both modalities learns from what the others say of rows they have not seen."""
    labels = label_NC.shape[1]
    text, text_NC = _fit_head(
        features.text_BR, label_NC, there_N=features.has_text_B, blocks=shapes.text.blocks, cluster_N=cluster_N, rng=rng
    )
    words = _find_words(text, features)
    image, image_NO = _fit_head(
        features.image_BS,
        np.concatenate([label_NC, words.word_NW], axis=1),
        there_N=features.has_image_B,
        blocks=shapes.visual.blocks,
        cluster_N=cluster_N,
        rng=rng,
    )
    _scale_outputs(text, text_NC, parts=[slice(0, labels)])
    _scale_outputs(image, image_NO, parts=[slice(0, labels), slice(labels, None)])
    both, both_NC = _fit_head(
        np.concatenate([image_NO[:, :labels], text_NC], axis=1),
        label_NC,
        there_N=features.has_image_B & features.has_text_B,
        blocks=name_opinions(labels),
        cluster_N=cluster_N,
        rng=rng,
        standardised=False,
    )
    _scale_outputs(both, both_NC, parts=[slice(0, labels)])
    return _Heads(image=image, text=text, both=both, words=words, image_NO=image_NO, text_NC=text_NC, both_NC=both_NC)


def _fit_head(
    x_NF: np.ndarray,
    target_NO: np.ndarray,
    *,
    there_N: np.ndarray,
    blocks: Blocks,
    cluster_N: np.ndarray,
    rng: np.random.Generator,
    standardised: bool = True,
) -> tuple[KernelHead, np.ndarray]:
    """``fit_kernel_head`` on the rows that have the modality; the others are predicted as zero."""
    rows = np.flatnonzero(there_N)
    predicted_NO = np.zeros(target_NO.shape, np.float32)
    if len(rows) == 0:
        return KernelHead(blocks=blocks, landmarks=1, outputs=target_NO.shape[1]), predicted_NO
    fold_N = draw_folds(cluster_N[rows], rng=rng)
    head, predicted_NO[rows] = fit_kernel_head(
        x_NF[rows], target_NO[rows], blocks=blocks, fold_N=fold_N, rng=rng, standardised=standardised
    )
    return head, predicted_NO


def _scale_outputs(head: KernelHead, predicted_NO: np.ndarray, *, parts: list[slice]) -> None:
    """Give each part of the outputs unit length on average, in the head and in ``predicted_NO``."""
    factor_O = np.ones(predicted_NO.shape[1], np.float32)
    for part in parts:
        factor_O[part] = 1 / max(_measure(predicted_NO[:, part]), 1e-6)
    head.rescale(torch.from_numpy(factor_O))
    predicted_NO *= factor_O


def _measure(row_NO: np.ndarray) -> float:
    """Root mean square length of the rows."""
    return float(np.sqrt((row_NO.astype(np.float64) ** 2).sum(1).mean())) if len(row_NO) else 0.0
