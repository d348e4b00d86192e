"""How tower outputs become one vector.

A vector has three parts. The label part is what kernel regression says of the labels, by the picture, by the words, and
by what these two say together; it is what makes items of a kind lie together. The instance part tells them apart. It is
the words that the regression reads off a picture, or that a text has, beside a projection of them and of the tower
outputs, which attends over the grid tokens and the text tokens; what it finds, and what the two modalities say
together, are added through branches that start at zero. The projection is trained with the words beside it, so it
learns what they do not know. The appearance part is the picture's own features, whitened by what near duplicates and
variants differ in: it finds the same thing again, whatever it means.

Shapes: B batch, G grid cells, T text tokens, V visual width, W text width, S and R widths of the image and the text
summary, L width of the label part, K of the appearance part, E evidence, D width of the instance part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from cbir.classes import NamedClasses
from cbir.kernel import Blocks, KernelHead
from cbir.late import LateFusion
from cbir.similarity import Similarity
from cbir.towers.shape import TextShape, VisualShape

GAIN = 3.0  # of the evidence, whose parts have about unit length
LABEL_EVIDENCE = 0.6
RAW_EVIDENCE = 0.5
TOGETHER = 1.5  # length of what both modalities say of the labels together, beside what each says
BELIEF = 2.0  # beside a picture, words that are trusted half as far as at first still give the whole label part
AGREEMENT = 10.0  # of picture and words, word by word: products of unit vectors' components are small
NAMED = 0.25  # length of the words of named classes beside the words that the regression reads off a picture
WORDS_SHARE = 0.7  # length of the words beside the projection, whose length is 1
ATTENTION = 128
ATTENTION_DROPOUT = 0.8  # of the tokens and of what is found: raw tokens let it memorise the items (docs/benchmarks.md)


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """The sizes a fusion module is built with.

    ``words``: components of the text summary that are read off a picture; the first ``kept`` are part of the vector.
    ``classes``: those that the visual tower can name. ``appearance``: width of that part. ``label_shares``,
    ``appearance_shares``: length of these parts where one modality is there, and where both are; the instance part has
    length 1. A wish beside a picture says what is to differ and not what a thing is: such a vector has no label part.
    ``late``: shares of signals that are fused late.
    """

    visual_width: int
    text_width: int
    grid_cells: int
    dimensions: int
    labels: int
    words: int
    kept: int
    classes: int
    appearance: int
    image_landmarks: int
    text_landmarks: int
    both_landmarks: int
    label_shares: tuple[float, float]
    appearance_shares: tuple[float, float]
    similarity: Similarity
    late: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known of some rows before anything is trained: evidence (B, E) and label predictions (B, L)."""

    image_BE: torch.Tensor
    text_BE: torch.Tensor
    image_BL: torch.Tensor
    text_BL: torch.Tensor
    both_BL: torch.Tensor

    def select(self, rows: torch.Tensor) -> Evidence:
        """The given rows."""
        return Evidence(**{name: part[rows] for name, part in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What attention looks at: grid tokens, text tokens, the text's mask, and which modalities are there."""

    grid_BGV: torch.Tensor
    text_BTW: torch.Tensor
    mask_BT: torch.Tensor
    has_image_B: torch.Tensor
    has_text_B: torch.Tensor


class Fusion(nn.Module):
    """Tower outputs -> unit vectors; either modality may be missing in any row."""

    def __init__(
        self, config: FusionConfig, *, visual: VisualShape, text: TextShape, dropout: float = 0.0, heads: int = 4
    ) -> None:
        super().__init__()
        self.heads, self.similarity = heads, config.similarity
        self.label_shares, self.appearance_shares = config.label_shares, config.appearance_shares
        self.labels, self.words = config.labels, config.words
        self.head_width, self.raw_from = visual.blocks[0][0], visual.stages_from
        raw = self.head_width + visual.summary - self.raw_from
        self.kept = config.kept
        width = config.dimensions - config.labels - config.kept
        outputs = config.labels + config.words
        self.image_head = KernelHead(blocks=visual.blocks, landmarks=config.image_landmarks, outputs=outputs)
        self.text_head = KernelHead(blocks=text.blocks, landmarks=config.text_landmarks, outputs=config.labels)
        opinions = name_opinions(config.labels)
        self.both_head = KernelHead(blocks=opinions, landmarks=config.both_landmarks, outputs=config.labels)
        self.read_words = nn.Linear(text.summary, config.words).requires_grad_(False)
        self.named = NamedClasses(classes=config.classes, visual_width=self.head_width, words=config.words)
        self.appearance = nn.Linear(raw, config.appearance).requires_grad_(False)
        self.image = nn.Linear(outputs + raw, width)
        self.text = nn.Linear(outputs, width)
        self.image_residual = _zero_residual(outputs + raw, width, dropout=dropout)
        self.text_residual = _zero_residual(outputs, width, dropout=dropout)
        self.input_dropout = nn.Dropout(dropout / 2)
        self.attention_dropout = nn.Dropout(ATTENTION_DROPOUT)
        self.grid_keys = nn.Linear(config.visual_width, 2 * ATTENTION)
        self.token_keys = nn.Linear(config.text_width, 2 * ATTENTION)
        self.query = nn.Linear(width, ATTENTION)
        self.found = _zero_linear(ATTENTION, width)
        self.mix = _zero_residual(3 * width, width, dropout=dropout, dropout_in=0.0)
        self.late = LateFusion(
            shares=config.late,
            places=visual.signals,
            width=config.dimensions + config.appearance,
            dimensions=config.dimensions,
            similarity=config.similarity,
        )
        self.trust = _zero_linear(2 * outputs, 1)
        self.hear = _zero_linear(2 * config.words, 2)

    def forward(self, image_BS: torch.Tensor, text_BR: torch.Tensor, *, tokens: Tokens) -> torch.Tensor:
        """Return vectors, of unit length for the cosine. Rows of a missing modality are ignored, whatever they hold."""
        with torch.no_grad():
            evidence = self.judge(image_BS, text_BR)
        fused_BD = self.compose(self.blend(evidence, tokens=tokens), evidence, tokens=tokens)
        return self.late(fused_BD, image_BS, has_image_B=tokens.has_image_B)

    def judge(self, image_BS: torch.Tensor, text_BR: torch.Tensor) -> Evidence:
        """The evidence of rows that the kernel heads have not seen."""
        image_BO, text_BL = self.image_head(image_BS), self.text_head(text_BR)
        both_BL = self.join(image_BO[:, : self.labels], text_BL)
        return self.assemble(image_BS, text_BR, image_BO=image_BO, text_BL=text_BL, both_BL=both_BL)

    def join(self, image_BL: torch.Tensor, text_BL: torch.Tensor) -> torch.Tensor:
        """What picture and words say of the labels together, (B, L)."""
        joined_BL: torch.Tensor = self.both_head(torch.cat([image_BL, text_BL], dim=1))
        return joined_BL

    def assemble(
        self,
        image_BS: torch.Tensor,
        text_BR: torch.Tensor,
        *,
        image_BO: torch.Tensor,
        text_BL: torch.Tensor,
        both_BL: torch.Tensor,
    ) -> Evidence:
        """Put predictions of the kernel heads beside what the towers say themselves."""
        seen_BS = self.image_head.standardise(image_BS)
        head, levels = seen_BS[:, : self.head_width], seen_BS[:, self.raw_from :]
        raw = torch.cat([0.5 * F.normalize(head, dim=1), F.normalize(levels, dim=1)], dim=1)
        image_BL = image_BO[:, : self.labels]
        words = image_BO[:, self.labels :] + NAMED * self.named(image_BS[:, : self.head_width])
        return Evidence(
            image_BE=GAIN * torch.cat([LABEL_EVIDENCE * image_BL, words, RAW_EVIDENCE * raw], dim=1),
            text_BE=self.read(text_BR, text_BL=text_BL),
            image_BL=image_BL,
            text_BL=text_BL,
            both_BL=both_BL,
        )

    def read(self, text_BR: torch.Tensor, *, text_BL: torch.Tensor) -> torch.Tensor:
        """The evidence of texts alone, (B, E)."""
        own_words = self.read_words(self.text_head.normalise(text_BR))
        return GAIN * torch.cat([LABEL_EVIDENCE * text_BL, own_words], dim=1)

    @property
    def instance_width(self) -> int:
        """Width of the instance part."""
        return self.image.out_features + self.kept

    def blend(self, evidence: Evidence, *, tokens: Tokens) -> torch.Tensor:
        """The instance part (B, D), unit vectors where they are compared by the cosine."""
        image_BD = self._see(evidence.image_BE) * tokens.has_image_B[:, None]
        text_BD = self._finish(self.text(evidence.text_BE) + self.text_residual(evidence.text_BE))
        text_BD = text_BD * tokens.has_text_B[:, None]
        base_BD = self._finish((image_BD + text_BD) / self._count(tokens))
        mixed_BD = self.mix(torch.cat([image_BD, text_BD, image_BD * text_BD], dim=1))
        found_BD = self.found(self.attention_dropout(self._attend(base_BD.detach(), tokens)))
        projected_BD = self._finish(base_BD + found_BD + mixed_BD)
        return self._finish(torch.cat([projected_BD, self._say(evidence, tokens)], dim=1))

    def _finish(self, vector_BD: torch.Tensor) -> torch.Tensor:
        """Unit vectors for the cosine; where length says something, as it is."""
        return F.normalize(vector_BD, dim=1) if self.similarity == "cosine" else vector_BD

    def _count(self, tokens: Tokens) -> torch.Tensor:
        """How many modalities each row has, (B, 1), at least 1."""
        return (tokens.has_image_B.float() + tokens.has_text_B.float()).clamp(min=1)[:, None]

    def _say(self, evidence: Evidence, tokens: Tokens) -> torch.Tensor:
        """The first components of the words; what a wish says counts otherwise than what a caption says."""
        image_BW, text_BW = self._read_both(evidence)
        both_B1 = (tokens.has_image_B & tokens.has_text_B)[:, None]
        heard_B2 = 2 * torch.sigmoid(self.hear(torch.cat([text_BW, image_BW * text_BW], dim=1)) * both_B1)
        said_BW = image_BW * tokens.has_image_B[:, None] + heard_B2[:, :1] * text_BW * tokens.has_text_B[:, None]
        return WORDS_SHARE * heard_B2[:, 1:] * F.normalize(said_BW, dim=1)[:, : self.kept]

    def compose(self, instance_BD: torch.Tensor, evidence: Evidence, *, tokens: Tokens) -> torch.Tensor:
        """The whole vector: the label part, the instance part, the appearance part."""
        both_B1 = (tokens.has_image_B & tokens.has_text_B)[:, None]
        label_B1, look_B1 = (
            alone + (both - alone) * both_B1 for alone, both in (self.label_shares, self.appearance_shares)
        )
        label_B1 = label_B1 * (BELIEF * self.trust_words(evidence) + ~both_B1).clamp(max=1)
        label_BL = label_B1 * self.judge_labels(evidence, tokens=tokens)
        look_BK = look_B1 * self.look(evidence) * tokens.has_image_B[:, None]
        return self._finish(torch.cat([label_BL, instance_BD, look_BK], dim=1))

    def look(self, evidence: Evidence) -> torch.Tensor:
        """The appearance part, unit vectors (B, K), whatever is said of the picture."""
        raw_BE = evidence.image_BE[:, self.labels + self.words :]
        return F.normalize(self.appearance(raw_BE), dim=1)

    def judge_labels(self, evidence: Evidence, *, tokens: Tokens) -> torch.Tensor:
        """The label part, unit vectors (B, L): a caption's words say what a thing is, a wish's say what to change."""
        told_BL = evidence.text_BL + TOGETHER * evidence.both_BL * tokens.has_image_B[:, None]
        told_BL = self.trust_words(evidence) * told_BL * tokens.has_text_B[:, None]
        return F.normalize(evidence.image_BL * tokens.has_image_B[:, None] + told_BL, dim=1)

    def trust_words(self, evidence: Evidence) -> torch.Tensor:
        """How far words say what a thing is, (B, 1) from 0 to 2: a caption's 1 or more, a wish's about 0."""
        return 2 * torch.sigmoid(self.weigh_words(evidence))

    def weigh_words(self, evidence: Evidence) -> torch.Tensor:
        """The log-odds (B, 1) that words are a caption and no wish, by what they say and how far the picture agrees."""
        image_BW, text_BW = self._read_both(evidence)
        agreed = (evidence.image_BL * evidence.text_BL, AGREEMENT * image_BW * text_BW)
        weighed_B1: torch.Tensor = self.trust(torch.cat([evidence.text_BE, *agreed], dim=1))
        return weighed_B1

    def _read_both(self, evidence: Evidence) -> tuple[torch.Tensor, torch.Tensor]:
        """The words read off the picture and those of the text, unit vectors (B, W)."""
        image_BW = evidence.image_BE[:, self.labels : self.labels + self.words]
        return F.normalize(image_BW, dim=1), F.normalize(evidence.text_BE[:, self.labels :], dim=1)

    def _see(self, image_BE: torch.Tensor) -> torch.Tensor:
        image_BE = self.input_dropout(image_BE)
        return self._finish(self.image(image_BE) + self.image_residual(image_BE))

    def _attend(self, base_BD: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        grid_BGV, text_BTW = self.attention_dropout(tokens.grid_BGV), self.attention_dropout(tokens.text_BTW)
        key_value = torch.cat([self.grid_keys(grid_BGV), self.token_keys(text_BTW)], dim=1)
        key, value = (self._split_heads(part) for part in key_value.chunk(2, dim=2))
        grid_BG = tokens.has_image_B[:, None].expand(-1, tokens.grid_BGV.shape[1])
        there_BK = torch.cat([grid_BG, tokens.mask_BT & tokens.has_text_B[:, None]], dim=1)
        query = self._split_heads(self.query(base_BD)[:, None])
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=there_BK[:, None, None, :])
        return found.transpose(1, 2).flatten(1)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.reshape(*states.shape[:2], self.heads, -1).transpose(1, 2)


def name_opinions(labels: int) -> Blocks:
    """The blocks of the head of both modalities: what the picture and what the words say of the labels."""
    return ((labels, 1.0), (labels, 1.0))


def _zero_linear(width_in: int, width_out: int) -> nn.Linear:
    linear = nn.Linear(width_in, width_out)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _zero_residual(width_in: int, width_out: int, *, dropout: float, dropout_in: float | None = None) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout if dropout_in is None else dropout_in),
        nn.Linear(width_in, 512),
        nn.GELU(),
        nn.Dropout(dropout),
        _zero_linear(512, width_out),
    )
