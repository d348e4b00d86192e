"""How the text tower is built: MiniLM from its wheel, a sentence transformer's folder, open_clip's, or word vectors.

Beside the states of its tokens a tower gives a summary of the text as a whole, of the words' own vectors, and of lower
layers: which words a text has is seen in the first layers and gone in the last.

Shapes: B batch, T tokens, W width of a token.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from cbir.errors import TowerError
from cbir.params import TowerParams
from cbir.towers.names import MINILM, MINILM_PACKAGE, WORD_VECTORS, check_text, find_package
from cbir.towers.open_clip_models import load_open_clip
from cbir.towers.run import TOKENIZER
from cbir.towers.shape import TextShape

MAX_TOKENS = 48
# Weights of the summary's blocks in the kernel: the whole text, the words' own vectors, the middle and the first layer.
WEIGHTS = (1.2, 1.0, 0.8, 0.2)
CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_MERGES = 49152 - 256 - 2


class TextTower(nn.Module):
    """Token ids and their mask -> states (B, T, W), and the summary (B, R)."""

    max_tokens = MAX_TOKENS

    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The text as a whole, the first block of the summary."""
        raise NotImplementedError

    def save_tokenizer(self, folder: Path) -> None:
        """Write ``tokenizer.json``, padding with id 0."""
        raise NotImplementedError

    def measure(self) -> TextShape:
        """Sizes, found by a text sent through."""
        ids = torch.ones(2, 4, dtype=torch.long)
        with torch.no_grad():
            states, summary = self(ids, ids)
            whole = self.embed(ids, ids).shape[1]
        width = states.shape[2]
        rest = (summary.shape[1] - whole) // width
        blocks = tuple(zip((whole, *[width] * rest), WEIGHTS, strict=False))
        return TextShape(width=width, blocks=blocks, max_tokens=self.max_tokens)


def build_text(params: TowerParams, *, captions: Sequence[str]) -> TextTower:
    """The text tower that ``params`` name, in eval mode; word vectors are learned from ``captions``.

    Raises:
        TowerError: there is no such tower, or its weights cannot be had or do not fit.
    """
    check_text(params.text)
    if params.text == MINILM:
        return SentenceTower(find_package(MINILM_PACKAGE) / "model").eval()
    if params.text == WORD_VECTORS:
        from cbir.towers.word_vectors import learn_word_vectors

        return learn_word_vectors(captions).eval()
    family, _, model = params.text.partition("/")
    if family == "open_clip":
        weights = params.text_weights or (params.visual_weights if params.visual == params.text else None)
        return ClipTextTower(load_open_clip(model, weights=weights)[0]).eval()
    return SentenceTower(Path(params.text)).eval()


class SentenceTower(TextTower):
    """A transformer whose text is the mean of its last states (Reimers & Gurevych 2019, Sentence-BERT)."""

    def __init__(self, folder: Path) -> None:
        """Load the folder.

        Raises:
            TowerError: a file is missing, or is no such model.
        """
        from transformers import AutoModel

        super().__init__()
        if not (folder / TOKENIZER).exists():
            raise TowerError(f"{folder / TOKENIZER} is missing; save the model with its fast tokenizer beside it.")
        self.folder = folder
        try:
            self.transformer = AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise TowerError(
                f"{folder} holds no transformer ({str(error).splitlines()[0]}); see towers.text."
            ) from None
        layers = self.transformer.config.num_hidden_layers
        self.layers = (layers // 2, max(layers // 6, 1))
        self.special = tuple(self._list_special())

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (B, T)."""
        layers = self.transformer(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        words_BTW = self.transformer.get_input_embeddings()(ids)
        own = mask
        for number in self.special:
            own = own * (ids != number)
        means = [_mean(layers[-1], mask), _mean(words_BTW, own), *(_mean(layers[n], mask) for n in self.layers)]
        return layers[-1], torch.cat(means, dim=1)

    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The mean of the last states, (B, W)."""
        return _mean(self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    def save_tokenizer(self, folder: Path) -> None:
        """Copy the model's own."""
        shutil.copyfile(self.folder / TOKENIZER, folder / TOKENIZER)

    def _list_special(self) -> list[int]:
        from tokenizers import Tokenizer

        added = Tokenizer.from_file(str(self.folder / TOKENIZER)).get_added_tokens_decoder()
        return sorted(number for number, token in added.items() if token.special)


class ClipTextTower(TextTower):
    """The text side of an open_clip model with its own transformer."""

    attn_mask: torch.Tensor | None

    def __init__(self, model: Any) -> None:
        """Take the text side.

        Raises:
            TowerError: the model's text side is of another kind.
        """
        super().__init__()
        text = getattr(model, "text", model)
        pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
        if not hasattr(text, "token_embedding") or pool != "argmax":
            raise TowerError(
                "This open_clip model's text tower has a tokenizer of its own; use it as towers.visual, and a sentence "
                "transformer's folder as towers.text."
            )
        self.token_embedding, self.transformer, self.ln_final = text.token_embedding, text.transformer, text.ln_final
        self.positional_embedding, self.projection = text.positional_embedding, text.text_projection
        self.register_buffer("attn_mask", text.attn_mask, persistent=False)
        self.max_tokens = int(text.positional_embedding.shape[0])

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask (B, T)."""
        words_BTW, states_BTW = self._run(ids)
        return states_BTW, torch.cat([self._pool(states_BTW, ids), _mean(words_BTW, mask)], dim=1)

    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The projected state of the end of the text."""
        return self._pool(self._run(ids)[1], ids)

    def save_tokenizer(self, folder: Path) -> None:
        """Write open_clip's byte-pair encoding as ``tokenizers`` reads it."""
        make_clip_tokenizer().save(str(folder / TOKENIZER))

    def _run(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        length = ids.shape[1]
        words_BTW = self.token_embedding(ids)
        states_BTW = words_BTW + self.positional_embedding[:length]
        mask_TT = None if self.attn_mask is None else self.attn_mask[:length, :length]
        return words_BTW, self.ln_final(self.transformer(states_BTW, attn_mask=mask_TT))

    def _pool(self, states_BTW: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        place_B1W = ids.argmax(1)[:, None, None].expand(-1, 1, states_BTW.shape[2])
        last_BW = states_BTW.gather(1, place_B1W)[:, 0]
        if self.projection is None:
            return last_BW
        return self.projection(last_BW) if isinstance(self.projection, nn.Linear) else last_BW @ self.projection


def tokenise(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and their mask, int64 (B, T)."""
    encodings = tokenizer.encode_batch(list(texts))
    return (
        torch.tensor([encoding.ids for encoding in encodings]),
        torch.tensor([encoding.attention_mask for encoding in encodings]),
    )


def make_clip_tokenizer() -> Any:
    """CLIP's tokenizer (Radford et al. 2021), from the merges in open_clip's package."""
    from open_clip.tokenizer import bytes_to_unicode, default_bpe
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : CLIP_MERGES + 1]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    letters = list(bytes_to_unicode().values())
    start, end = "<start_of_text>", "<end_of_text>"
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges), start, end]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token=end))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])]
    )
    return tokenizer


def _mean(states_BTW: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    return (states_BTW * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True).clamp(min=1)
