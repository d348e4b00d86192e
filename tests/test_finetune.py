"""Towers learn, and the same whether the batch fits in memory, the run is stopped, or two processes share it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import COLOURS, TINY
from hypothesis import given
from hypothesis import strategies as st
from tuning_run import draw_squares, make_tuning

import cbir.launch
import cbir.train
from cbir.augment import Order, Pictures, deal_rows, open_loader
from cbir.encoder import Encoder
from cbir.errors import TrainingError
from cbir.finetune import Captioned, FineTuning, fine_tune
from cbir.ingest import ingest
from cbir.launch import count_workers
from cbir.params import FineTuneParams, IngestParams, TowerParams, TrainParams
from cbir.records import SPLIT_SCHEMA, write_jsonl, write_table, write_text
from cbir.towers.open_clip_models import load_open_clip
from cbir.tune_towers import CHECKPOINTS, MARK
from cbir.two_towers import list_groups

ROOT = Path(__file__).parent.parent
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_GPU)])
def accelerator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where towers learn; deterministic, as the stage is."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield request.param
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    (tmp_path / "tiny.safetensors").write_bytes(tiny.read_bytes())
    return tmp_path


def read_weights(tuning: FineTuning) -> torch.Tensor:
    return torch.cat([weight.detach().flatten().cpu() for weight in tuning.bare.parameters()])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_with_where_to_look(folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"not available.* See accelerator, devices and hosts under finetune"):
        make_tuning(folder, accelerator="cuda")


def test_memory_that_is_full_is_told_with_what_to_lower(folder: Path) -> None:
    def fill(*compared: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(TrainingError, match=r"lower finetune\.micro_batch from 256"):
        make_tuning(folder, loss=fill).run_epoch()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_towers_learn_from_pictures_and_words(folder: Path, accelerator: str, precision: str) -> None:
    tuning = make_tuning(folder, epochs=6, accelerator=accelerator, precision=precision)
    before = {name: weight.detach().cpu().clone() for name, weight in tuning.bare.named_parameters()}
    rows = [tuning.run_epoch() for _ in range(6)]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2
    now = {name: weight.detach().cpu() for name, weight in tuning.bare.named_parameters()}
    assert {name.split(".")[0] for name, weight in now.items() if not weight.equal(before[name])} == {"visual", "text"}


def test_towers_of_two_models_learn_under_projections_of_their_own(folder: Path, accelerator: str) -> None:
    tuning = make_tuning(folder, epochs=4, one_space=False, accelerator=accelerator)
    before = [weight.detach().cpu().clone() for weight in tuning.bare.heads.parameters()]
    rows = [tuning.run_epoch() for _ in range(4)]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2
    assert len(before) == 4
    assert not any(
        weight.detach().cpu().equal(one) for weight, one in zip(tuning.bare.heads.parameters(), before, strict=True)
    )


def test_pictures_without_a_single_caption_learn_from_changed_copies(folder: Path, accelerator: str) -> None:
    tuning = make_tuning(folder, epochs=6, captions=False, accelerator=accelerator)
    rows = [tuning.run_epoch() for _ in range(6)]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2


@pytest.mark.parametrize("captions", [True, False], ids=["captions", "no captions"])
def test_cached_gradients_teach_what_the_whole_batch_at_once_does(
    folder: Path, captions: bool, accelerator: str
) -> None:
    whole, parts = (
        make_tuning(folder, captions=captions, micro_batch=size, accelerator=accelerator) for size in (16, 5)
    )
    for one, other in zip((whole.run_epoch() for _ in range(2)), (parts.run_epoch() for _ in range(2)), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert torch.allclose(read_weights(whole), read_weights(parts), atol=2e-4)


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(folder: Path, tmp_path: Path, accelerator: str) -> None:
    straight, stopped = (make_tuning(folder, accelerator=accelerator) for _ in range(2))
    for _ in range(3):
        straight.run_epoch()
    stopped.run_epoch()
    stopped.save(tmp_path / "last.ckpt")
    resumed = make_tuning(folder, accelerator=accelerator)
    resumed.resume(tmp_path / "last.ckpt")
    assert resumed.epoch == 1
    for _ in range(2):
        resumed.run_epoch()
    assert resumed.history == straight.history
    assert torch.equal(read_weights(resumed), read_weights(straight))


def test_the_weights_of_the_best_epoch_are_kept_and_a_finished_run_is_not_run_again(folder: Path) -> None:
    tuning = make_tuning(folder)
    kept: list[torch.Tensor] = []
    values = iter([0.5, 0.9, 0.1])

    def measure() -> dict[str, float]:
        kept.append(read_weights(tuning))
        return {"hit@10": 0.0, "map": 0.0, "validation": next(values)}

    tuning.measure = measure  # type: ignore[method-assign]
    assert fine_tune(tuning, checkpoint=folder / "last.ckpt")
    assert torch.equal(read_weights(tuning), kept[1])
    again = make_tuning(folder)
    assert fine_tune(again, checkpoint=folder / "last.ckpt")
    assert torch.equal(read_weights(again), kept[1])


def name_square(number: int) -> str:
    return list(COLOURS)[number % len(COLOURS)]


def prepare_stage(folder: Path, *, captions: bool = True) -> dict[str, Any]:
    """What the stage `train` is called with, on 24 squares and the tiny towers; writes into ``folder``.

    Without captions, half of the squares have their colour for a label, the others nothing.
    """
    raw = folder / "raw" / "squares"
    raw.mkdir(parents=True)
    squares = draw_squares(24)
    for n, image in enumerate(squares.images):
        (raw / f"{n}.png").write_bytes(image)
    rows = [
        {"id": f"{n}", "file_name": f"{n}.png"}
        | ({"captions": [text]} if captions else {"labels": [f"colours/{name_square(n)}"] * (n % 2)})
        for n, text in enumerate(squares.texts)
    ]
    write_jsonl(raw / "items.jsonl", rows)
    ingest(folder / "raw", folder / "ingested", params=IngestParams(image_size=64))
    where = [{"id": f"{n}", "split": "validation" if n > 19 else "train", "cluster": f"{n}"} for n in range(24)]
    write_table(folder / "split/split.parquet", pa.Table.from_pylist(where, schema=SPLIT_SCHEMA))
    name = f"open_clip/{TINY}"
    return {
        "tower_params": TowerParams(visual=name, visual_weights=str(folder / "tiny.safetensors"), text=name),
        "tune_params": FineTuneParams(epochs=2, batch_size=8, accelerator="cpu"),
        "params": TrainParams(epochs=1, batch_size=8, dimensions=32),
    }


def test_a_failure_after_tuning_costs_no_epoch_and_what_is_finished_leaves_no_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    stage, ran = prepare_stage(folder), []
    run_epoch, export_towers = FineTuning.run_epoch, cbir.train.export_towers
    monkeypatch.setattr(FineTuning, "run_epoch", lambda tuning: ran.append(tuning.epoch) or run_epoch(tuning))

    def fail(*towers: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(cbir.train, "export_towers", fail)
    for tune_rate in (1e-4, 2e-4):  # the first one's parameters are given up
        stage["tune_params"] = dataclasses.replace(stage["tune_params"], tower_rate=tune_rate)
        with pytest.raises(OSError, match="No space"):
            cbir.train.train(Path("ingested"), Path("split"), Path("encoder"), **stage)
    assert (ran, len(list(CHECKPOINTS.iterdir()))) == ([0, 1, 0, 1], 2)
    write_text(CHECKPOINTS / "running" / MARK, "other/encoder")
    (folder / "other").mkdir()
    monkeypatch.setattr(cbir.train, "export_towers", export_towers)
    cbir.train.train(Path("ingested"), Path("split"), Path("encoder"), **stage)
    assert ran == [0, 1, 0, 1]
    assert [path.name for path in CHECKPOINTS.iterdir()] == ["running"]
    assert Path("encoder").is_dir()


def test_pictures_without_captions_are_tuned_to_the_names_of_their_labels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    seen: list[FineTuning] = []
    run_epoch = FineTuning.run_epoch
    monkeypatch.setattr(FineTuning, "run_epoch", lambda tuning: seen.append(tuning) or run_epoch(tuning))
    stage = prepare_stage(folder, captions=False)
    cbir.train.train(Path("ingested"), Path("split"), Path("encoder"), **stage)
    for part in (seen[0].data, seen[0].validation):
        assert list(part.texts) == [name_square(int(id_)) if int(id_) % 2 else None for id_ in part.ids]
    assert seen[0].history[-1]["validation"] > 0
    codes = seen[0].data.code_N
    assert len(set(codes)) < len(codes)  # pictures of one name are no negatives of one another


def test_a_loss_of_labels_draws_together_what_shares_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    seen: list[FineTuning] = []
    run_epoch = FineTuning.run_epoch
    monkeypatch.setattr(FineTuning, "run_epoch", lambda tuning: seen.append(tuning) or run_epoch(tuning))
    stage = prepare_stage(folder, captions=False)
    stage["params"] = dataclasses.replace(stage["params"], loss="supervised_contrastive")
    cbir.train.train(Path("ingested"), Path("split"), Path("encoder"), **stage)
    data = seen[0].data
    named = {id_: text or id_ for id_, text in zip(data.ids, data.texts, strict=True)}  # without a label, its own
    assert len(set(data.code_N.tolist())) == len(set(named.values()))


def test_a_loss_that_is_not_finite_saves_the_ids_of_its_batch(folder: Path) -> None:
    tuning = make_tuning(folder, loss=lambda query, key, code: query.sum() * float("nan"))
    with pytest.raises(TrainingError, match=r"not finite; lower finetune\.tower_rate"):
        tuning.run_epoch()
    ids = json.loads((folder / "faults.json").read_text())
    assert len(set(ids)) == 16
    assert all(id_.startswith("squares/") for id_ in ids)


def test_half_precision_has_the_loss_of_full(folder: Path, accelerator: str) -> None:
    half, full = (
        make_tuning(folder, precision=precision, accelerator=accelerator).run_epoch()
        for precision in ("bf16-mixed", "32-true")
    )
    assert half["loss"] == pytest.approx(full["loss"], rel=0.1)


@NO_GPU
def test_a_gpu_has_the_loss_curve_of_the_processor(folder: Path) -> None:
    there, here = (make_tuning(folder, accelerator=where) for where in ("cuda", "cpu"))
    for one, other in zip((there.run_epoch() for _ in range(3)), (here.run_epoch() for _ in range(3)), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("captions", [True, False], ids=["captions", "no captions"])
def test_compiled_towers_learn_the_same_and_are_exported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, accelerator: str, captions: bool
) -> None:
    monkeypatch.chdir(folder)
    stage = prepare_stage(folder, captions=captions)
    for number, compiled in enumerate([False, True]):
        load_open_clip.cache_clear()
        stage["tune_params"] = dataclasses.replace(stage["tune_params"], compile=compiled, accelerator=accelerator)
        cbir.train.train(Path("ingested"), Path("split"), Path(f"encoder{number}"), **stage)
    histories = [json.loads(Path(f"encoder{number}/finetune.json").read_text()) for number in range(2)]
    plain, compiled = ([row["loss"] for row in history] for history in histories)
    assert compiled == pytest.approx(plain, rel=1e-3)
    assert Encoder.load(Path("encoder1")).towers.shapes.visual.image_size == 64


def test_who_decodes_is_chosen_by_where_the_towers_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cbir.launch, "count_cores", lambda: 16)
    assert count_workers(3, on_gpu=False, ranks=1) == count_workers(3, on_gpu=True, ranks=8) == 3
    assert count_workers("auto", on_gpu=False, ranks=1) == 0
    assert [count_workers("auto", on_gpu=True, ranks=ranks) for ranks in (1, 2, 8, 16)] == [15, 7, 1, 0]


def test_the_number_of_processes_is_the_one_that_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(TrainingError, match=r"16 processes were started.* set them to 8 and 2\."):
        make_tuning(folder, devices=1)


def test_captions_of_other_pictures_find_less_on_validation(folder: Path) -> None:
    tuning = make_tuning(folder, epochs=6)
    squares = draw_squares(24, seed=200)
    codes = np.array([int(id_.split("/")[1]) % 4 for id_ in squares.ids])
    for _ in range(6):
        tuning.run_epoch()
    values = []
    for shift in (0, 1):
        texts = [f"a {name_square(n + shift)} square" for n in range(24)]
        tuning.validation = Captioned(images=squares.images, texts=texts, code_N=codes, ids=squares.ids)
        values.append(tuning.measure()["validation"])
    assert values[0] > values[1] + 0.2


def test_pictures_that_words_answer_are_changed_once() -> None:
    pictures = Pictures(draw_squares(2).images, ["a square", None], side=64, seed=0)
    (_, nothing, _), (one, other, row) = pictures[0, 0], pictures[0, 1]
    assert nothing is None
    assert other is not None
    assert not one.equal(other)
    assert pictures[0, 1][0].equal(one)
    assert not pictures[1, 1][0].equal(one)
    assert row == 1


def test_lower_layers_learn_more_slowly(folder: Path) -> None:
    model = make_tuning(folder).bare
    groups = list_groups(model, FineTuneParams(tower_rate=1e-4, layer_decay=0.5))
    rate = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    rates = {name: rate[id(weight)] for name, weight in model.named_parameters()}
    assert len(rate) == len(rates)
    for tower, last, first in (
        ("visual", "trunk.visual.proj", "trunk.visual.class_embedding"),
        ("text", "projection", "positional_embedding"),
    ):
        assert rates[f"{tower}.{last}"] == pytest.approx(1e-4)
        assert rates[f"{tower}.{first}"] == pytest.approx(1e-4 * 0.5**11)


@given(st.lists(st.integers(0, 99), min_size=1, unique=True), st.integers(1, 9))
def test_ranks_share_a_batch_of_any_size_in_equal_parts_and_miss_no_row(rows: list[int], ranks: int) -> None:
    row_RB = deal_rows(np.array(rows), ranks=ranks)
    assert row_RB.shape == (ranks, -(-len(rows) // ranks))
    assert set(row_RB.ravel().tolist()) == set(rows)


@given(st.integers(1, 200), st.integers(2, 64), st.integers(1, 4))
def test_an_epoch_sees_every_row_in_batches_no_larger_than_asked(count: int, batch_size: int, ranks: int) -> None:
    orders = [Order(count, batch_size=batch_size, seed=0, rank=rank, ranks=ranks) for rank in range(ranks)]
    batches = [set(row_RB.ravel().tolist()) for row_RB in orders[0].deal()]
    assert sorted(row for batch in batches for row in batch) == list(range(count))
    assert (len(batches), max(map(len, batches)) <= batch_size) == (orders[0].steps, True)
    seen = {row for order in orders for job in order for _, row in job}
    assert seen == set(range(count))


def test_other_processes_decode_the_same_in_every_epoch() -> None:
    squares = draw_squares(70)
    pictures = Pictures(squares.images, [*squares.texts[:40], *[None] * 30], side=64, seed=0)
    orders = [Order(70, batch_size=33, seed=0) for _ in range(2)]
    alone, shared = (open_loader(pictures, orders[n], workers=n, pinned=False) for n in (0, 1))
    for epoch in range(2):
        orders[0].epoch = orders[1].epoch = epoch
        views = [list(loader) for loader in (alone, shared)]
        assert sorted(row for one in views[0] for row in one.row_B.tolist()) == list(range(70))
        for one, other in zip(*views, strict=True):
            assert one.pixels.equal(other.pixels)
            assert one.row_B.tolist() == other.row_B.tolist()
            assert (one.other_pixels is None) == (other.other_pixels is None)
            assert one.other_pixels is None or one.other_pixels.equal(other.other_pixels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "micro_batch", "silent"),
    [(32, 256, 0), (31, 256, 0), (31, 5, 3)],
    ids=["even", "odd", "odd, cached, some without captions"],
)
def test_two_processes_have_the_loss_curve_of_one(folder: Path, count: int, micro_batch: int, silent: int) -> None:
    """``silent``: so many, at the front, have no caption."""
    alone = make_tuning(folder, count=count, silent=silent)
    fine_tune(alone, checkpoint=folder / "alone" / "last.ckpt")
    expected = [row["loss"] for row in alone.history]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(ROOT / "tests" / "tuning_run.py"), str(folder), *map(str, (count, micro_batch, silent))],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    history = json.loads((folder / "history.json").read_text())
    assert [row["loss"] for row in history] == pytest.approx(expected, rel=1e-4)
