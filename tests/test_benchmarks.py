"""The README's benchmarks run to their end, each against its own oracle, at sizes that say nothing of speed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from torch.utils.benchmark import Measurement, Timer

from benchmarks import __main__ as command
from benchmarks import encoder, finetuning, methods, scale, scores, timing
from cbir.encoder import Encoder
from cbir.gallery import load_gallery
from cbir.params import TrainParams
from cbir.records import read_items, read_table, write_table


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (timing, "time_call", _time_once),
        (encoder, "time_call", _time_once),
        (scores, "time_call", _time_once),
        (encoder, "IMAGES", 6),
        (encoder, "BATCH", 8),
        (encoder, "LABELS", 7),
        (finetuning, "BATCH", 4),
        (finetuning, "IMAGES", 8),
        (finetuning, "SETTINGS", (("32-true", False, 4),)),
        (scores, "QUERIES", 20),
        (scores, "ITEMS", 200),
    ):
        monkeypatch.setattr(module, name, value)


def _time_once(call: Callable[[], object]) -> Measurement:
    return Timer("call()", globals={"call": call}).timeit(1)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["embedding", "step", "towers", "epochs", "metrics"])
def test_a_benchmark_agrees_with_what_it_is_compared_with(part: str) -> None:
    rows = command.PARTS[part]()
    assert rows
    assert all(len(row) == 4 and all(row) for row in rows)


def test_queries_without_a_release_say_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ((name, measured, _, how),) = command.PARTS["query"]()
    assert (name, measured) == ("query", "not measured")
    assert "make demo" in how


def test_an_unknown_benchmark_is_named_beside_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "spede"])
    with pytest.raises(SystemExit, match=r"no benchmark spede; there are embedding"):
        command.main()


def test_clusters_are_taken_whole_and_relative_captions_between_what_is_taken(tmp_path: Path) -> None:
    ids = [f"s/{n}" for n in range(12)]
    data, out = tmp_path / "data", tmp_path / "out"
    write_table(data / "ingested/items-00000.parquet", pa.table({"id": ids}))
    clusters = [str(n // 3) for n in range(12)]
    write_table(data / "split/split.parquet", pa.table({"id": ids, "split": ["test"] * 12, "cluster": clusters}))
    rows = {"reference_id": ids, "caption": ["but red"] * 12, "target_id": ids[1:] + ids[:1]}
    write_table(data / "ingested/relative.parquet", pa.table(rows))
    methods.take_clusters(tmp_path, out, items=7)
    taken = read_items(out / "ingested", columns=["id"])["id"].to_pylist()
    numbers = {ids.index(id_) for id_ in taken}
    assert len(taken) == 6
    assert {n // 3 * 3 + k for n in numbers for k in range(3)} == numbers
    assert read_table(out / "split/split.parquet", made_by="split")["id"].to_pylist() == taken
    relative = read_table(out / "ingested/relative.parquet", made_by="ingest")["reference_id"].to_pylist()
    assert relative == [ids[n] for n in sorted(numbers) if (n + 1) % 12 in numbers]


@pytest.mark.slow
def test_a_method_is_trained_on_what_was_taken_and_gives_a_cell_a_column(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods.take_clusters(released, tmp_path, items=24)
    monkeypatch.chdir(tmp_path)
    taken = read_table(Path("split/split.parquet"), made_by="split")
    assert 0 < len(taken) <= 24
    method = methods.Method(name="short", train=TrainParams(epochs=1, batch_size=16))
    trained, gallery, seconds = methods.measure_method(method)
    assert sorted(gallery.ids) == sorted(taken.filter(pc.equal(taken["split"], "test"))["id"].to_pylist())
    assert seconds > 0
    for dimensions in (None, 8):
        cells = methods.score_encoder(trained, gallery, dimensions=dimensions)
        assert len(cells) == len(methods.COLUMNS)
        assert all(cell == "-" or 0 <= float(cell) <= 100 for cell in cells)


@pytest.mark.slow
def test_the_table_of_methods_has_the_figures_of_the_evaluation(released: Path) -> None:
    folder = released / "data/encoder"
    ours = Encoder.load(folder)
    gallery = load_gallery(released / "data/ingested", released / "data/split", towers_folder=folder)
    metrics = json.loads((released / "metrics.json").read_text())

    def write_cell(query_set: str, system: str, figure: str) -> str:
        found = metrics.get(query_set, {}).get(system)
        return f"{100 * found[figure]:.1f}" if found else "-"

    assert methods.score_encoder(ours, gallery) == [write_cell(*column) for column in methods.COLUMNS]
    rows = {name: cells for name, _, *cells, _ in methods.score_rivals(ours, gallery)}
    assert {"not trained: histogram", "not trained: image_only", "not trained: orb"} <= set(rows)
    for name, cells in rows.items():
        system = name.removeprefix("not trained: ")
        assert cells[0] == write_cell("label", system, "map")
        assert cells[4] == write_cell("duplicate", system, "map")
        assert cells[1:4] == ["-", "-", "-"]


def test_the_evaluation_at_scale_has_the_figures_of_pytrec_eval() -> None:
    size = {"queries": 130, "items": 400, "asked": 2 * scale.THEIR_BLOCK + 10}
    ours, theirs = scale.run_ours(**size), scale.run_theirs(**size)
    assert 0 < ours["map"] < 1
    assert ours["map"] == pytest.approx(theirs["map"], abs=1e-9)
