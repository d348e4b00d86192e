"""Validation decides for how many epochs a fusion is trained, and a loss that is no number stops it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import SHAPES
from small_fusions import draw_features

from cbir.classes import Classes
from cbir.encoder import Features
from cbir.errors import TrainingError
from cbir.finetune import FAULTS
from cbir.fit import PATIENCE, Catalogue, fit_epochs
from cbir.history import find_best
from cbir.params import TrainParams
from cbir.start import assemble_evidence

PARAMS = TrainParams(dimensions=16, batch_size=16, epochs=6)
ROWS, HELD_OUT = 60, 20
COLOURS = ("red", "green", "blue")


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """Pictures and captions of three colours, which what the towers make of them tells apart."""
    rng = np.random.default_rng(0)
    colour_N = np.arange(ROWS) % len(COLOURS)
    image_BS, text_BR = (
        (rng.normal(size=(len(COLOURS), width))[colour_N] + rng.normal(size=(ROWS, width))).astype(np.float32)
        for width in (SHAPES.visual.summary, SHAPES.text.summary)
    )
    schema = pa.schema([(name, pa.string()) for name in ("reference_id", "caption", "target_id")])
    pq.write_table(schema.empty_table(), tmp_path / "relative.parquet")
    return Catalogue(
        ingested=tmp_path,
        items=pa.table(
            {
                "id": [f"{n:02d}" for n in range(ROWS)],
                "captions": [[f"{COLOURS[colour]}, number {n}"] for n, colour in enumerate(colour_N)],
                "labels": [[COLOURS[colour]] for colour in colour_N],
                "sha256": [f"{n:064d}" for n in range(ROWS)],
            }
        ),
        cluster_N=np.arange(ROWS),
        features=draw_features(rng, image_BS=image_BS, text_BR=text_BR),
        towers=cast(Any, SimpleNamespace(shapes=SHAPES)),  # every item has words, so that none are read
        classes=Classes(
            weight_CV=np.zeros((1, SHAPES.visual.width), np.float32),
            bias_C=np.zeros(1, np.float32),
            text_CR=np.zeros((1, SHAPES.text.summary), np.float32),
        ),
        copies=[],
    )


def fit(catalogue: Catalogue, params: TrainParams, *, held_out: int = HELD_OUT) -> list[dict[str, Any]]:
    """The history of a fit on all but the last ``held_out`` rows."""
    rows = catalogue.rows
    return fit_epochs(catalogue, rows[: ROWS - held_out], validation=rows[ROWS - held_out :], params=params)[2]


def test_the_last_fit_is_of_all_items_and_as_long_as_validation_chose(
    catalogue: Catalogue, capsys: pytest.CaptureFixture[str]
) -> None:
    history = fit(catalogue, PARAMS)
    assert 0 < len(history) <= PARAMS.epochs
    assert f"the same of {ROWS} items, those of validation among them, {find_best(history) + 1} epochs" in (
        capsys.readouterr().err
    )


def test_a_fit_that_gets_no_better_stops_early(catalogue: Catalogue) -> None:
    history = fit(catalogue, replace(PARAMS, learning_rate=1e-12, epochs=20))
    assert [find_best(history), len(history)] == [0, PATIENCE + 1]


def test_without_validation_items_there_is_one_fit_of_all_epochs(
    catalogue: Catalogue, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(fit(catalogue, PARAMS, held_out=0)) == PARAMS.epochs
    assert "those of validation among them" not in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_the_fit_and_keeps_the_ids_of_its_batch(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrainingError, match=r"epoch 0 is not finite; lower train\.learning_rate"):
        fit(catalogue, replace(PARAMS, temperature=1e-45))
    ids = json.loads((tmp_path / FAULTS).read_text())
    assert 0 < len(ids) <= ROWS - HELD_OUT
    assert set(ids) <= set(catalogue.items["id"].to_pylist()[: ROWS - HELD_OUT])


def test_the_gate_learns_which_words_are_wishes(catalogue: Catalogue) -> None:
    rng = np.random.default_rng(1)
    wish_R = rng.normal(size=SHAPES.text.summary)  # wishes resemble one another and no caption

    def read(words: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        summary_UR = wish_R + 0.3 * rng.normal(size=(len(words), SHAPES.text.summary))
        tokens_UTW = rng.normal(size=(len(words), 1, SHAPES.text.width))
        return tokens_UTW.astype(np.float32), np.ones((len(words), 1), bool), summary_UR.astype(np.float32)

    pairs = [(f"{n:02d}", f"in {COLOURS[(n + 1) % 3]}, {n}", f"{n + 1:02d}") for n in range(ROWS - 1)]
    columns = zip(*pairs, strict=True)
    names = ("reference_id", "caption", "target_id")
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), catalogue.ingested / "relative.parquet")
    catalogue = replace(catalogue, towers=cast(Any, SimpleNamespace(shapes=SHAPES, read=read)))
    fusion, _, _ = fit_epochs(
        catalogue, catalogue.rows, validation=catalogue.rows[:0], params=replace(PARAMS, epochs=30, temperature=1.0)
    )

    def trust(features: Features) -> np.ndarray:
        with torch.inference_mode():
            return fusion.trust_words(assemble_evidence(fusion, features)).numpy()

    wishes = replace(catalogue.features, text_BR=read(["a wish"] * ROWS)[2])
    assert np.quantile(trust(wishes), 0.9) < 0.5 * np.quantile(trust(catalogue.features), 0.1)
