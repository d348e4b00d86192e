"""On pictures that neither has seen, a worse challenger is refused, a better one passes, an equal one stays out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import COLOURS as SQUARES
from conftest import draw
from PIL import Image, ImageDraw
from tiny_encoder import write_encoder

from cbir.contest import SCORES_SCHEMA, Contestant, Field, find_fresh, hold_contest, list_pairs, record_split
from cbir.encoder import Encoder
from cbir.gallery import load_gallery
from cbir.gate.decision import decide
from cbir.gate.evidence import Contest, Decision, Evidence, IndexFigures
from cbir.gate.names import COMPARED
from cbir.ingest import ingest
from cbir.params import FineTuneParams, GateParams, IngestParams, SplitParams, TowerParams, TrainParams
from cbir.query_sets import measure_encoder
from cbir.records import ITEM_SCHEMA, read_table, write_jsonl, write_table
from cbir.split import split_items
from cbir.train import train

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 60),
    "blue": (40, 70, 220),
    "yellow": (240, 210, 40),
    "black": (20, 20, 20),
    "purple": (130, 40, 160),
}
GROUNDS = {"white": (245, 245, 245), "grey": (150, 150, 150), "pink": (250, 190, 200), "orange": (250, 150, 60)}
SHAPES = ("circle", "square", "triangle")
ITEMS = 400
METRICS = ("text_to_image.fused.map", "image_to_text.fused.map", "label.fused_both.map")
PARAMS = GateParams(
    protect=dict.fromkeys(METRICS, 0.01),
    improve=METRICS,
    least_gain=0.02,
    slice_margin=0.2,  # of some 30 queries each
)
UNTOUCHED = {  # evidence that the contest has no part in
    "statistics": {},
    "validation": {"success": True, "rows": ITEMS},
    "split": {"test_items_near_training": 0, "leaking_clusters": 0},
    "index": IndexFigures(
        rows=ITEMS, vectors=ITEMS, fingerprint="f", encoder="f", recall=1.0, filtered={}, latency_ms=1.0, fault=""
    ),
}


def draw_shape(rng: np.random.Generator) -> tuple[Image.Image, str, str]:
    """A picture of one shape, its caption and its colour."""
    colour, ground, shape = rng.choice(list(COLOURS)), rng.choice(list(GROUNDS)), rng.choice(SHAPES)
    size, r = ("large", 34) if rng.random() < 0.5 else ("small", 18)
    x, y = rng.integers(r, 96 - r, 2)
    noise = rng.integers(-8, 8, (96, 96, 3)) + np.array(GROUNDS[ground])
    image = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=COLOURS[colour])
    else:
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=COLOURS[colour])
    return image, f"a {size} {colour} {shape} on {ground}", str(colour)


def draw_shapes(raw: Path) -> list[dict[str, Any]]:
    """Pictures under ``raw``, as an import leaves them, and their rows."""
    folder, rng = raw / "shapes", np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for n in range(ITEMS):
        image, caption, colour = draw_shape(rng)
        image.save(folder / f"{n:03d}.png")
        rows.append({"id": f"{n:03d}", "file_name": f"{n:03d}.png", "captions": [caption], "labels": [colour]})
    write_jsonl(folder / "relative.jsonl", [])
    return rows


def spoil_captions(rows: list[dict[str, Any]], ids: set[str], *, share: float) -> list[dict[str, Any]]:
    """Give a share of the rows in ``ids`` the caption of another one of them."""
    rng = np.random.default_rng(7)
    known = [n for n, row in enumerate(rows) if row["id"] in ids]
    picked = rng.choice(known, int(share * len(known)), replace=False)
    given = {int(a): rows[int(b)]["captions"] for a, b in zip(picked, np.roll(picked, 1), strict=True)}
    return [row | {"captions": given.get(n, row["captions"])} for n, row in enumerate(rows)]


class Arena:
    """A catalogue and encoders trained on it: ``good``, ``other`` by another seed, ``spoilt`` by wrong captions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = draw_shapes(folder / "raw")
        self._prepare("ingested", rows)
        split = SplitParams(phash_distance=0, test=0.4, validation=0.1)
        split_items(folder / "ingested", folder / "split", params=split)
        where = read_table(folder / "split/split.parquet", made_by="split").to_pylist()
        known = {row["id"].split("/")[-1] for row in where if row["split"] != "test"}
        self._prepare("spoilt_ingested", spoil_captions(rows, known, share=0.3))
        for name, source, seed in (("good", "ingested", 0), ("other", "ingested", 1), ("spoilt", "spoilt_ingested", 0)):
            params = TrainParams(epochs=2, batch_size=64, dimensions=512, seed=seed)
            train(
                folder / source,
                folder / "split",
                folder / name,
                tower_params=TowerParams(),
                tune_params=FineTuneParams(),
                params=params,
            )
        record_split(folder / "ingested", folder / "split", folder / "learnt.parquet")

    def _prepare(self, name: str, rows: list[dict[str, Any]]) -> None:
        write_jsonl(self.folder / "raw/shapes/items.jsonl", rows)
        ingest(self.folder / "raw", self.folder / name, params=IngestParams())

    def judge(self, champion: str, challenger: str) -> Decision:
        """What the gate says of one of the encoders against another."""
        contestants = [
            Contestant(folder=self.folder / name, encoder=Encoder.load(self.folder / name))
            for name in (champion, challenger)
        ]
        scores, facts = hold_contest(
            *contestants,
            field=Field(
                ingested=self.folder / "ingested",
                split=self.folder / "split",
                golden=self.folder / "golden",
                cache=self.folder / ".cbir/features",
                ks=(1, 10),
            ),
            learnt=read_table(self.folder / "learnt.parquet", made_by="split"),
            distance=0,
            metrics=METRICS,
        )
        contest = Contest(champion="read", version="1", metrics=dict.fromkeys(METRICS, 1.0), **facts)
        metrics = dict.fromkeys(METRICS, 1.0)
        evidence = Evidence(metrics=metrics, contest=contest, pairs=list_pairs(scores), **UNTOUCHED)
        return decide(evidence, params=PARAMS)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    folder = tmp_path_factory.mktemp("arena")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where the cache of tower outputs lies
        yield Arena(folder)


@pytest.mark.slow
def test_a_challenger_trained_on_wrong_captions_in_30_percent_of_the_rows_is_refused(arena: Arena) -> None:
    decision = arena.judge("good", "spoilt")
    failed = {rule.name for rule in decision.rules if rule.binding and rule.verdict == "fail"}
    assert decision.verdict == "fail"
    assert {"non_inferior.text_to_image.fused.map", "non_inferior.image_to_text.fused.map"} & failed
    assert "superior" in failed


@pytest.mark.slow
def test_a_better_challenger_passes(arena: Arena) -> None:
    decision = arena.judge("spoilt", "good")
    assert decision.verdict == "pass", [rule for rule in decision.rules if rule.binding and rule.verdict != "pass"]


@pytest.mark.slow
def test_an_equal_challenger_another_seed_is_not_promoted(arena: Arena) -> None:
    for champion, challenger in (("good", "other"), ("other", "good")):
        decision = arena.judge(champion, challenger)
        assert decision.verdict in ("fail", "inconclusive")
        assert not [rule for rule in decision.rules if rule.name.startswith("better.") and rule.verdict == "pass"]


@pytest.mark.slow
def test_the_champion_against_itself_is_as_good_and_no_better(arena: Arena) -> None:
    decision = arena.judge("good", "good")
    hindering = {rule.name for rule in decision.rules if rule.binding and rule.verdict != "pass"}
    assert (decision.verdict, hindering) == ("fail", {"superior"})


def make_field(folder: Path, *, words: bool = True) -> Field:
    """Eight test items, two of a group, two of a colour and a change of one into another; or pictures alone."""
    rows = []
    for n in range(8):
        colour = list(SQUARES)[n // 2]
        picture = folder / f"raw/squares/{n}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(SQUARES[colour], seed=n).save(picture)
        said = {"captions": [f"a {colour} square"], "labels": [colour], "group": str(n // 2)} if words else {}
        rows.append({"id": str(n), "file_name": picture.name} | said)
    write_jsonl(folder / "raw/squares/items.jsonl", rows)
    change = {"reference_id": "0", "caption": "blue", "target_id": "4"}
    write_jsonl(folder / "raw/squares/relative.jsonl", [change] if words else [])
    ingest(folder / "raw", folder / "ingested", params=IngestParams())
    places = {"id": [row["id"] for row in rows], "split": ["test"] * 8, "cluster": [str(n // 2) for n in range(8)]}
    write_table(folder / "split/split.parquet", pa.table(places))
    return Field(
        ingested=folder / "ingested",
        split=folder / "split",
        golden=folder / "golden",
        cache=folder / ".cbir/features",
        ks=(1, 10),
    )


def test_what_the_gate_can_be_asked_to_compare_is_what_an_encoder_answers(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", name="one")
    found: dict[str, set[str]] = {}
    for name, words in {"told": True, "bare": False}.items():
        field = make_field(tmp_path / name, words=words)
        gallery = load_gallery(field.ingested, field.split, towers_folder=folder, cache=field.cache)
        for one in measure_encoder(Encoder.load(folder), gallery, ks=field.ks):
            found.setdefault(one.query_set, set()).add(one.system)
    assert found == {task: set(systems) for task, systems in COMPARED.items()}


def make_contestants(folder: Path) -> tuple[Contestant, Contestant]:
    """Two encoders of the same towers that answer alike."""
    folders = [write_encoder(folder / name, name=name) for name in ("old", "new")]
    old, new = (Contestant(folder=place, encoder=Encoder.load(place)) for place in folders)
    return old, new


def learn_first(field: Field, *, items: int) -> pa.Table:
    """What a champion recorded that trained on the first ``items``; they are training items now, too."""
    places = read_table(field.split / "split.parquet", made_by="split").to_pydict()
    places["split"][:items] = ["train"] * items
    write_table(field.split / "split.parquet", pa.table(places))
    record_split(field.ingested, field.split, field.split / "learnt.parquet")
    return read_table(field.split / "learnt.parquet", made_by="split")


def test_pictures_that_are_not_compared_on_are_not_looked_at(tmp_path: Path) -> None:
    field = make_field(tmp_path)
    learnt = learn_first(field, items=4)
    shard = field.ingested / "items-00000.parquet"
    rows = read_table(shard, made_by="ingest").to_pylist()
    broken = [row | ({"image": b"no picture"} if row["id"] in "0123" else {}) for row in rows]
    write_table(shard, pa.Table.from_pylist(broken, schema=ITEM_SCHEMA))
    metrics = ["text_to_image.fused.map"]
    scores, facts = hold_contest(*make_contestants(tmp_path), field=field, learnt=learnt, distance=0, metrics=metrics)
    assert facts == {"test_items": 4, "fresh_items": 4, "golden": None}
    assert sorted(scores["query"].to_pylist()) == ["4", "5", "6", "7"]
    assert scores["champion"].to_pylist() == scores["challenger"].to_pylist()


def test_golden_queries_are_asked_of_every_item_learnt_from_or_not(tmp_path: Path) -> None:
    field = make_field(tmp_path)
    learnt = learn_first(field, items=8)
    write_jsonl(field.golden / "queries.jsonl", [{"id": "red", "text": "red square"}])
    (field.golden / "qrels.txt").write_text("red 0 0 1\nred 0 1 1\n")
    scores, facts = hold_contest(*make_contestants(tmp_path), field=field, learnt=learnt, distance=0, metrics=[])
    assert (scores.num_rows, facts) == (0, {"test_items": 0, "fresh_items": 0, "golden": [1.0, 1.0]})


def make_items(rows: list[tuple[str, str, str, int]]) -> pa.Table:
    """Items of (id, group, file hash, perceptual hash)."""
    names = ("id", "group", "sha256", "phash")
    return pa.table(dict(zip(names, zip(*[(*row[:3], f"{row[3]:016x}") for row in rows], strict=True), strict=True)))


LEARNT = make_items([("a", "g", "1", 0), ("b", "h", "2", 0xFF << 8), ("c", "i", "3", 0xFF << 16)]).append_column(
    "split", pa.array(["train", "validation", "test"])
)
ASKED = make_items(
    [
        ("a", "j", "9", 0xFF << 32),  # the id of a training item
        ("new-1", "k", "2", 0xFF << 40),  # the file of a validation item
        ("new-2", "l", "8", 0b11),  # two bits from a training item's picture
        ("new-3", "m", "7", 0b111),  # three bits from it
        ("c", "i", "3", 0xFF << 16),  # was a test item then
        ("new-4", "g", "6", 0xFF << 24),  # a variant of a training item
        ("new-5", "n", "5", 0xFF << 48),  # not tested now
    ]
)
WHERE = np.array(["test"] * 6 + ["train"])


def test_a_test_item_is_fresh_unless_its_id_its_group_its_file_or_nearly_its_picture_was_learnt_from() -> None:
    assert find_fresh(ASKED, WHERE, learnt=LEARNT, distance=2).tolist() == [3, 4]


def test_of_a_release_that_recorded_no_groups_the_rest_is_compared() -> None:
    old = LEARNT.drop_columns("group")
    assert find_fresh(ASKED, WHERE, learnt=old, distance=2).tolist() == [3, 4, 5]


def test_what_a_release_learnt_from_is_recorded_with_groups_and_hashes(tmp_path: Path) -> None:
    write_table(tmp_path / "items-00000.parquet", ASKED)
    places = {"id": ASKED["id"], "split": pa.array(WHERE), "cluster": ASKED["group"]}
    write_table(tmp_path / "split.parquet", pa.table(places))
    record_split(tmp_path, tmp_path, tmp_path / "learnt.parquet")
    found = read_table(tmp_path / "learnt.parquet", made_by="split")
    assert found.select(ASKED.column_names).to_pylist() == ASKED.to_pylist()
    assert found["split"].to_pylist() == WHERE.tolist()


def test_slices_are_some_of_the_queries_and_never_all_of_them() -> None:
    row = {"metric": "m", "cluster": "0", "champion": 0.5, "challenger": 0.75}
    parts = (["label=a", "caption=yes"], ["label=b", "caption=yes"], ["label=a", "label=b", "caption=yes"])
    rows = [row | {"query": str(n), "parts": names} for n, names in enumerate(parts)]
    pairs = list_pairs(pa.Table.from_pylist(rows, schema=SCORES_SCHEMA))
    assert [(pair.part, len(pair.cluster_Q)) for pair in pairs] == [("", 3), ("label=a", 2), ("label=b", 2)]
    assert pairs[0].challenger_Q.tolist() == [0.75] * 3
