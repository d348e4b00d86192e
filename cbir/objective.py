"""What the fusion is trained on, and towards: the views of each item, its labels, and relative captions.

Shapes: N items, P training items, B batch, L labels, C components of them, E evidence, D dimensions of the instance
part; of words, U texts, T tokens, W width, R width of the summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from cbir.clusters import number_labels, number_twins
from cbir.encoder import Features
from cbir.features import first_captions, keep_modalities, select_rows
from cbir.fusing import make_tokens
from cbir.fusion import Evidence, Fusion, Tokens
from cbir.losses import info_nce, proxy_loss
from cbir.metric_losses import SHARED, make_pair_loss
from cbir.params import TrainParams
from cbir.start import find_basis
from cbir.towers.run import Towers

PROXY_TEMPERATURE = 0.15
VIEWS = ((True, False), (False, True), (True, True))
PAIRS = ((0, 1, 2 / 3), (0, 2, 1 / 6), (1, 2, 1 / 6))  # of views, with the weight of each


class TrainingData:
    """Features, labels and clusters of the training items.

    ``indexed`` are the features as the index holds the items, with no words but their own; ``code_N`` is equal where
    the caption or the picture is, ``label_code_N`` where all labels are.
    """

    def __init__(
        self, items: pa.Table, features: Features, *, indexed: Features, cluster_N: np.ndarray, most_labels: int
    ) -> None:
        self.ids = items["id"].to_pylist()
        self.features, self.indexed = features, indexed
        labels = items["labels"].to_pylist()
        self.label_NL = encode_labels(labels)
        self.basis_LC = find_basis(self.label_NL, most=most_labels)
        self.cluster_N = cluster_N
        self.code_N = number_twins(first_captions(items), items["sha256"].to_pylist())
        self.label_code_N = number_labels(labels)


class RelativeWords:
    """Relative captions of the training items, their words read once by the text tower: tokens, mask and summary."""

    def __init__(self, pairs: list[tuple[int, str, int]], *, towers: Towers) -> None:
        words = sorted({caption for _, caption, _ in pairs})
        place = {caption: n for n, caption in enumerate(words)}
        self.reference = np.array([reference for reference, _, _ in pairs], dtype=np.int64)
        self.word = np.array([place[caption] for _, caption, _ in pairs], dtype=np.int64)
        self.target = np.array([target for _, _, target in pairs], dtype=np.int64)
        if words:
            self.tokens_UTW, self.mask_UT, self.text_UR = towers.read(words)


class Objective:
    """The loss of one batch: its views against each other, its labels, and as many relative captions."""

    def __init__(
        self,
        fusion: Fusion,
        data: TrainingData,
        *,
        evidence: Evidence,
        relative: RelativeWords,
        params: TrainParams,
    ) -> None:
        self.fusion, self.data, self.evidence = fusion, data, evidence
        self.relative, self.params = relative, params
        self.label_NL = torch.from_numpy(data.label_NL)
        self.place_LC = torch.from_numpy(data.basis_LC)
        self.pair_loss = make_pair_loss(params.loss, temperature=params.temperature, similarity=params.similarity)
        self.code_N = torch.from_numpy(data.label_code_N if params.loss in SHARED else data.code_N)
        width = fusion.instance_width
        self.proxy_LD = torch.nn.Parameter(F.normalize(torch.randn(self.label_NL.shape[1], width), dim=1))
        if len(relative.word):
            text_UR = torch.from_numpy(relative.text_UR)
            with torch.no_grad():
                self.text_UL = fusion.text_head(text_UR)
                self.text_UE = fusion.read(text_UR, text_BL=self.text_UL)

    def __call__(self, batch: np.ndarray, *, rng: np.random.Generator) -> torch.Tensor:
        """The loss of the items at ``batch``, and of relative captions drawn by ``rng``."""
        loss = self._compare_views(batch)
        if len(self.relative.word):
            count = min(self.params.batch_size, len(self.relative.word))
            pairs = rng.choice(len(self.relative.word), count, replace=False)
            loss = loss + self.params.relative_weight * self._compare_relative(pairs)
        return loss

    def _compare_views(self, batch: np.ndarray) -> torch.Tensor:
        features = select_rows(self.data.features, batch)
        evidence = self.evidence.select(torch.from_numpy(batch))
        views = [
            self.fusion.blend(evidence, tokens=make_tokens(keep_modalities(features, image=image, text=text)))
            for image, text in VIEWS
        ]
        code_B = self.code_N[batch]
        there = [features.has_image_B, features.has_text_B, features.has_image_B & features.has_text_B]
        loss = torch.zeros(())
        for a, b, weight in PAIRS:
            both = np.flatnonzero(there[a] & there[b])
            if len(both) > 1:
                loss = loss + weight * self.pair_loss(views[a][both], views[b][both], code_B[both])
        label_BL = self.label_NL[batch]
        for view, shown in zip(views, there, strict=True):
            labels = proxy_loss(view[shown], self.proxy_LD, label_BL=label_BL[shown], temperature=PROXY_TEMPERATURE)
            loss = loss + self.params.label_weight * labels / len(views)
        return loss + self.params.label_weight * self._judge_labels(evidence, features=features, label_BL=label_BL)

    def _judge_labels(self, evidence: Evidence, *, features: Features, label_BL: torch.Tensor) -> torch.Tensor:
        """Proxy loss of the label part, whose proxies are known: the labels' own places in it."""
        judged = self.fusion.judge_labels(evidence, tokens=make_tokens(features))
        return proxy_loss(judged, self.place_LC, label_BL=label_BL, temperature=PROXY_TEMPERATURE)

    def _compare_relative(self, pairs: np.ndarray) -> torch.Tensor:
        """InfoNCE from reference picture and words to the target as the index holds it, picture and caption."""
        relative = self.relative
        reference, word, target = relative.reference[pairs], relative.word[pairs], relative.target[pairs]
        evidence, text_BL = self.evidence.select(torch.from_numpy(reference)), self.text_UL[word]
        with torch.no_grad():
            both_BL = self.fusion.join(evidence.image_BL, text_BL)
        asked_evidence = replace(evidence, text_BE=self.text_UE[word], text_BL=text_BL, both_BL=both_BL)
        asked = replace(
            select_rows(self.data.features, reference),
            text_BR=relative.text_UR[word],
            captions_BR=relative.text_UR[word],
            tokens_BTW=relative.tokens_UTW[word],
            token_mask_BT=relative.mask_UT[word],
            has_text_B=np.ones(len(word), bool),
        )
        answer = make_tokens(select_rows(self.data.indexed, target))
        return self._match_targets(
            asked_evidence, make_tokens(asked), self.evidence.select(torch.from_numpy(target)), answer, target=target
        )

    def _match_targets(
        self, asked: Evidence, asked_tokens: Tokens, answer: Evidence, answer_tokens: Tokens, *, target: np.ndarray
    ) -> torch.Tensor:
        """InfoNCE of the instance parts; and of the whole vectors, which teaches only how far to trust the words.

        That is taught by itself, too: the words that ask are wishes, those of the answers are captions.
        """
        query_BD, key_BD = (
            self.fusion.blend(asked, tokens=asked_tokens),
            self.fusion.blend(answer, tokens=answer_tokens),
        )
        whole = (
            self.fusion.compose(query_BD.detach(), asked, tokens=asked_tokens),
            self.fusion.compose(key_BD.detach(), answer, tokens=answer_tokens),
        )
        compare = partial(
            info_nce,
            code_B=torch.from_numpy(target),
            temperature=self.params.temperature,
            similarity=self.params.similarity,
        )
        return (
            compare(query_BD, key_BD)
            + compare(*whole)
            + self._tell_wishes(asked, answer.select(answer_tokens.has_text_B))
        )

    def _tell_wishes(self, wishes: Evidence, captions: Evidence) -> torch.Tensor:
        """Binary cross-entropy of the gate that tells captions from wishes."""
        weighed_B = torch.cat([self.fusion.weigh_words(wishes), self.fusion.weigh_words(captions)])[:, 0]
        caption_B = torch.cat([torch.zeros(len(wishes.text_BE)), torch.ones(len(captions.text_BE))])
        return F.binary_cross_entropy_with_logits(weighed_B, caption_B)


def encode_labels(labels: Sequence[Sequence[str]]) -> np.ndarray:
    """Labels of each item as float32 (N, L), 1 where it has the label; one empty column if there are none."""
    names = {name: n for n, name in enumerate(sorted({name for row in labels for name in row}))}
    label_NL = np.zeros((len(labels), max(len(names), 1)), np.float32)
    for n, row in enumerate(labels):
        label_NL[n, [names[name] for name in row]] = 1
    return label_NL
