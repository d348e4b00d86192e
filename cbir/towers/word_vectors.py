"""Word vectors learned on the catalogue's own captions: the text side of classical retrieval, as a baseline.

Captions are lower-cased, freed of special characters and stop words, and split into words, as the literature on fusing
visual features with word embeddings does (Mikolov et al. 2013, Efficient estimation of word representations).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cbir.errors import TowerError
from cbir.towers.run import TOKENIZER
from cbir.towers.text import TextTower

WIDTH = 128
EPOCHS = 40
WINDOW = 5
UNKNOWN = "[UNK]"  # id 0: padding, stop words and words that no caption has


def learn_word_vectors(captions: Sequence[str]) -> WordVectorTower:
    """Skip-gram vectors of the words in ``captions``, equal for equal captions.

    Raises:
        TowerError: the captions have no word in common usage.
    """
    from bm25s.stopwords import STOPWORDS_EN
    from gensim.models import Word2Vec

    split = make_tokenizer([])
    sentences = [
        [word for word, _ in split.pre_tokenizer.pre_tokenize_str(split.normalizer.normalize_str(text))]
        for text in captions
    ]
    sentences = [[word for word in words if word not in STOPWORDS_EN] for words in sentences]
    if not any(sentences):
        raise TowerError("There are no captions to learn word vectors from; set towers.text to minilm-l6.")
    model = Word2Vec(
        sentences, vector_size=WIDTH, window=WINDOW, min_count=1, sg=1, epochs=EPOCHS, workers=1, seed=0, sorted_vocab=1
    )
    return WordVectorTower(list(model.wv.index_to_key), model.wv.vectors)


class WordVectorTower(TextTower):
    """The mean of a text's word vectors."""

    def __init__(self, words: Sequence[str], vector_NW: np.ndarray) -> None:
        super().__init__()
        self.words = words
        table = np.concatenate([np.zeros((1, vector_NW.shape[1]), np.float32), vector_NW.astype(np.float32)])
        self.vectors = nn.Embedding(len(table), table.shape[1], padding_idx=0)
        self.vectors.load_state_dict({"weight": torch.from_numpy(table)})

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (B, T)."""
        return self.vectors(ids), self.embed(ids, mask)

    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The mean over known words, (B, W); zeros where there are none."""
        known_BT = mask * (ids > 0)
        return (self.vectors(ids) * known_BT[..., None]).sum(1) / known_BT.sum(1, keepdim=True).clamp(min=1)

    def save_tokenizer(self, folder: Path) -> None:
        """Write the vocabulary."""
        make_tokenizer(self.words).save(str(folder / TOKENIZER))


def make_tokenizer(words: Sequence[str]) -> Any:
    """Lower case, no special characters, split at white space; words that are not in ``words`` are unknown."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {UNKNOWN: 0} | {word: number for number, word in enumerate(words, start=1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer
