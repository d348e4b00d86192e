"""How the fusion is trained on the cached outputs of the frozen towers.

Shapes: N items, P training items, B batch, L labels, E evidence, D dimensions of the instance part.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress

from cbir.encoder import Features, make_tokens, run_fusion, save_fusion
from cbir.errors import CbirError, TrainingError
from cbir.features import first_captions, keep_modalities, load_features, replace_words, select_rows
from cbir.fusion import Evidence, Fusion, Tokens
from cbir.losses import info_nce, proxy_loss
from cbir.metrics import average_precision, encode_labels, hit_at_k, share_labels, sort_relevance
from cbir.params import TrainParams, load_section
from cbir.records import read_items, read_relative, read_table, write_json
from cbir.start import find_basis, start_fusion
from cbir.towers import Towers, export_default_towers

LEAST_ITEMS = 16
PROXY_TEMPERATURE = 0.15
TRUST_RATE = 10  # the one weight vector that decides on trust learns faster, for it starts at zero alone
VIEWS = ((True, False), (False, True), (True, True))
PAIRS = ((0, 1, 2 / 3), (0, 2, 1 / 6), (1, 2, 1 / 6))  # of views, with the weight of each


def train(ingested: Path, split: Path, out: Path, *, params: TrainParams) -> None:
    """Train the fusion on the items of ``split`` train, choose the epoch by retrieval on validation.

    Writes the encoder folder ``out``: towers (ONNX), tokenizer, fusion weights (safetensors), sizes, history.

    Raises:
        TrainingError: too few items, or a loss that is not finite.
        TowerError: a tower's weights are missing.
    """
    torch.manual_seed(params.seed)
    torch.use_deterministic_algorithms(True)
    items, table = _read_split_items(ingested, split)
    rows = {name: np.flatnonzero(table["split"] == name) for name in ("train", "validation")}
    if len(rows["train"]) < LEAST_ITEMS:
        raise TrainingError(f"Only {len(rows['train'])} items to train on; import at least {LEAST_ITEMS} more.")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    export_default_towers(partial)
    features = load_features(items, towers_folder=partial)
    data = _TrainingData(
        items,
        select_rows(features, rows["train"]),
        rows=rows["train"],
        cluster=table["cluster"],
        most_labels=params.dimensions // 3,
    )
    relative = _RelativeWords(data, read_relative(ingested, data.ids), towers=Towers(partial))
    checked = _Checked(select_rows(features, rows["validation"]), items["labels"].take(rows["validation"]).to_pylist())
    del features
    fusion, config, evidence = start_fusion(
        data.features, data.label_NL, basis_LC=data.basis_LC, cluster_N=data.cluster_N, params=params
    )
    history = _fit(fusion, data, evidence=evidence, relative=relative, checked=checked, params=params)
    save_fusion(fusion, config, partial)
    write_json(partial / "history.json", history)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)


class _TrainingData:
    """Features, labels, clusters and codes of captions and pictures of the training items."""

    def __init__(
        self, items: pa.Table, features: Features, *, rows: np.ndarray, cluster: np.ndarray, most_labels: int
    ) -> None:
        items = items.take(rows)
        self.ids = items["id"].to_pylist()
        self.features = features
        self.label_NL = encode_labels(items["labels"].to_pylist())
        self.basis_LC = find_basis(self.label_NL, most=most_labels)
        self.cluster_N = cluster[rows]
        captions = [text or f"\0{i}" for i, text in enumerate(first_captions(items))]
        self.caption_N = np.unique(captions, return_inverse=True)[1]
        self.image_N = np.unique(items["sha256"].to_pylist(), return_inverse=True)[1]


@dataclass(frozen=True)
class _Checked:
    """The validation items, on which the epoch is chosen."""

    features: Features
    labels: list[list[str]]


class _RelativeWords:
    """Relative captions of the training items, their words read once by the text tower."""

    def __init__(self, data: _TrainingData, pairs: list[tuple[int, str, int]], *, towers: Towers) -> None:
        words = sorted({caption for _, caption, _ in pairs})
        self.reference = np.array([reference for reference, _, _ in pairs], dtype=np.int64)
        self.word = np.array([words.index(caption) for _, caption, _ in pairs], dtype=np.int64)
        self.target = np.array([target for _, _, target in pairs], dtype=np.int64)
        if words:
            self.features = replace_words(select_rows(data.features, np.zeros(len(words), np.int64)), towers, words)


def _read_split_items(ingested: Path, split: Path) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Items, and the split and cluster of each. Test items too: the towers' outputs are cached here for all."""
    items = read_items(ingested, columns=["id", "image", "captions", "labels", "sha256"])
    table = read_table(split / "split.parquet", made_by="split").to_pydict()
    row = {id_: n for n, id_ in enumerate(table["id"])}
    order = [row[id_] for id_ in items["id"].to_pylist()]
    return items, {name: np.array(table[name])[order] for name in ("split", "cluster")}


def _fit(
    fusion: Fusion,
    data: _TrainingData,
    *,
    evidence: Evidence,
    relative: _RelativeWords,
    checked: _Checked,
    params: TrainParams,
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(params.seed)
    loss_of = _Loss(fusion, data, evidence=evidence, relative=relative, params=params)
    steps = max(len(data.ids) // params.batch_size, 1)
    trained = [p for p in (*fusion.parameters(), loss_of.proxy_LD) if p.requires_grad]
    trust = set(fusion.trust.parameters())
    rates = [params.learning_rate, TRUST_RATE * params.learning_rate]
    groups = [{"params": [p for p in trained if p not in trust]}, {"params": list(trust)}]
    optimiser = torch.optim.AdamW(groups, weight_decay=params.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=rates, total_steps=steps * params.epochs + 1, pct_start=0.1
    )
    history: list[dict[str, Any]] = []
    best, best_weights = -1.0, None
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("train", total=params.epochs)
        for epoch in range(params.epochs):
            fusion.train()
            losses = []
            for batch in np.array_split(rng.permutation(len(data.ids)), steps):
                loss = loss_of(batch, rng=rng)
                if not bool(torch.isfinite(loss)):
                    named = ", ".join(data.ids[n] for n in batch[:5])
                    raise TrainingError(
                        f"The loss of epoch {epoch} is not finite (batch {named}, ...); lower train.learning_rate."
                    )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(trained, 5.0)
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
            row = {"epoch": epoch, "loss": float(np.mean(losses)), **_check(fusion, checked)}
            if row["validation"] >= best:
                best = row["validation"]
                best_weights = {name: t.detach().clone() for name, t in fusion.state_dict().items()}
            history.append(row)
            progress.update(bar, advance=1, description=f"train loss {row['loss']:.3f}")
    if best_weights is not None:
        fusion.load_state_dict(best_weights)
    return history


class _Loss:
    """The loss of one batch: its views against each other, its labels, and as many relative captions."""

    def __init__(
        self,
        fusion: Fusion,
        data: _TrainingData,
        *,
        evidence: Evidence,
        relative: _RelativeWords,
        params: TrainParams,
    ) -> None:
        self.fusion, self.data, self.evidence = fusion, data, evidence
        self.relative, self.params = relative, params
        self.label_NL = torch.from_numpy(data.label_NL)
        self.place_LC = torch.from_numpy(data.basis_LC)
        width = fusion.image.out_features
        self.proxy_LD = torch.nn.Parameter(F.normalize(torch.randn(self.label_NL.shape[1], width), dim=1))
        if len(relative.word):
            words = relative.features
            with torch.no_grad():
                image_BS, text_BR = (torch.from_numpy(part).float() for part in (words.image_BS, words.text_BR))
                self.words = fusion.assemble(
                    image_BS, text_BR, image_BO=fusion.image_head(image_BS), text_BL=fusion.text_head(text_BR)
                )

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
        same_BB = _equal(self.data.caption_N[batch]) | _equal(self.data.image_N[batch])
        there = [features.has_image_B, features.has_text_B, features.has_image_B & features.has_text_B]
        loss = torch.zeros(())
        for a, b, weight in PAIRS:
            both = np.flatnonzero(there[a] & there[b])
            if len(both) > 1:
                loss = loss + weight * info_nce(
                    views[a][both],
                    views[b][both],
                    same_BB=same_BB[both][:, both],
                    temperature=self.params.temperature,
                )
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
        asked_evidence = self.evidence.select(torch.from_numpy(reference))
        words = self.words.select(torch.from_numpy(word))
        asked_evidence = Evidence(
            image_BE=asked_evidence.image_BE,
            image_BL=asked_evidence.image_BL,
            text_BE=words.text_BE,
            text_BL=words.text_BL,
        )
        pictures, spoken = select_rows(self.data.features, reference), select_rows(relative.features, word)
        asked = Features(
            image_BS=pictures.image_BS,
            grid_BGV=pictures.grid_BGV,
            has_image_B=pictures.has_image_B,
            text_BR=spoken.text_BR,
            tokens_BTW=spoken.tokens_BTW,
            token_mask_BT=spoken.token_mask_BT,
            has_text_B=spoken.has_text_B,
        )
        answer = make_tokens(select_rows(self.data.features, target))
        return self._match_targets(
            asked_evidence, make_tokens(asked), self.evidence.select(torch.from_numpy(target)), answer, target=target
        )

    def _match_targets(
        self, asked: Evidence, asked_tokens: Tokens, answer: Evidence, answer_tokens: Tokens, *, target: np.ndarray
    ) -> torch.Tensor:
        """InfoNCE of the instance parts; and of the whole vectors, which teaches only how far to trust the words."""
        query_BD, key_BD = (
            self.fusion.blend(asked, tokens=asked_tokens),
            self.fusion.blend(answer, tokens=answer_tokens),
        )
        whole = (
            self.fusion.compose(query_BD.detach(), asked, tokens=asked_tokens),
            self.fusion.compose(key_BD.detach(), answer, tokens=answer_tokens),
        )
        same_BB, temperature = _equal(target), self.params.temperature
        return info_nce(query_BD, key_BD, same_BB=same_BB, temperature=temperature) + info_nce(
            *whole, same_BB=same_BB, temperature=temperature
        )


def _equal(code_B: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(code_B[:, None] == code_B[None, :])


def _check(fusion: Fusion, checked: _Checked) -> dict[str, float]:
    """Words to pictures and labels on the validation items; ``validation``, their mean, chooses the epoch."""
    features = checked.features
    if len(features.has_image_B) < 2:
        return {"hit@10": 0.0, "map": 0.0, "validation": 0.0}
    fusion.eval()
    with torch.inference_mode():
        image, text, both = (run_fusion(fusion, keep_modalities(features, image=i, text=t)).numpy() for i, t in VIEWS)
    asked = features.has_text_B
    hits = hit_at_k(sort_relevance(text[asked] @ image.T, np.eye(len(image), dtype=bool)[asked]), k=10)
    relevant = share_labels(encode_labels(checked.labels))
    some = relevant.any(1)
    score = both @ both.T
    np.fill_diagonal(score, -np.inf)
    precision = average_precision(sort_relevance(score, relevant)[some], total_Q=relevant[some].sum(1))
    figures = {"hit@10": hits, "map": precision}
    means = {name: float(values.mean()) if len(values) else 0.0 for name, values in figures.items()}
    return means | {"validation": sum(means.values()) / 2}


def main() -> None:
    """Run the stage: ``python -m cbir.train INGESTED SPLIT OUT``."""
    ingested, split, out = map(Path, sys.argv[1:4])
    try:
        train(ingested, split, out, params=load_section(Path("params.yaml"), "train", TrainParams))
    except CbirError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
