"""What the items of a gallery ask of one another, and that an encoder answers it as the evaluation says."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_fusions import blank_features

from cbir.embed import embed
from cbir.encoder import Encoder
from cbir.errors import SplitError
from cbir.evaluate import evaluate
from cbir.gallery import Gallery, load_gallery
from cbir.params import EmbedParams, EvaluateParams
from cbir.query_sets import list_query_sets, measure_encoder
from cbir.records import write_table
from cbir.similarity import shorten_vectors

ROWS = 4


@pytest.fixture
def gallery() -> Gallery:
    """Two red things and a blue one, and one without label or words; the blue one is what row 0 becomes."""
    return Gallery(
        ids=["a", "b", "c", "d"],
        cluster_N=np.array([0, 0, 1, 2]),
        labels=[["red"], ["red", "round"], ["blue"], []],
        captions=["red", "red ball", "blue", None],
        images=[b""] * ROWS,
        hashes=["1", "2", "3", "4"],
        copies=None,
        features=replace(blank_features(ROWS), has_text_B=np.array([True, True, True, False])),
        pairs=[(0, "but blue", 2)],
    )


def test_only_items_that_have_something_relevant_ask(gallery: Gallery) -> None:
    asking = {one.name: list(one.ids) for one in list_query_sets(gallery)}
    assert asking == {
        "text_to_image": ["a", "b", "c"],
        "image_to_text": ["a", "b", "c"],
        "label": ["a", "b"],
        "label_name": ["blue", "red", "round"],
        "duplicate": ["a", "b"],
        "relative": ["a"],
        "relative_indexed": ["a"],
    }


def test_an_item_is_not_among_the_answers_to_its_own_label_or_change(gallery: Gallery) -> None:
    for one in [one for one in list_query_sets(gallery) if one.name != "label_name"]:  # asked by no item
        score = one.relevance.leave_out(lambda start, stop: np.ones((stop - start, ROWS), np.float32))
        left_out = np.isneginf(score(0, len(one.asking_Q)))
        own = np.arange(ROWS) == one.asking_Q[:, None]
        expected = own if one.name in ("label", "duplicate", "relative", "relative_indexed") else np.zeros_like(own)
        assert left_out.tolist() == expected.tolist()


def test_what_is_relevant_is_the_same_label_or_the_target(gallery: Gallery) -> None:
    relevant = {one.name: one.relevance.judge(0, len(one.ids)).item_J.tolist() for one in list_query_sets(gallery)}
    assert relevant["label"] == [1, 0]
    assert relevant["label_name"] == [2, 0, 1, 1]
    assert relevant["duplicate"] == [1, 0]
    assert relevant["relative"] == [2]
    assert relevant["text_to_image"] == [0, 1, 2]


def list_relevant(gallery: Gallery) -> dict[str, list[list[int]]]:
    return {
        one.name: [one.relevance.judge(q, q + 1).item_J.tolist() for q in range(len(one.ids))]
        for one in list_query_sets(gallery)
    }


def test_what_no_query_could_tell_from_the_answer_is_an_answer_too(gallery: Gallery) -> None:
    """The blue thing is there twice, under other words; and another red thing is called as the first one is."""
    relevant = list_relevant(replace(gallery, hashes=["1", "2", "3", "3"], captions=["red", "Red", "blue", None]))
    assert relevant["text_to_image"] == [[0, 1], [0, 1], [2, 3]]
    assert relevant["image_to_text"] == [[0, 1], [0, 1], [2]]
    assert relevant["relative"] == [[2, 3]]
    assert relevant["relative_indexed"] == [[2]]


def test_a_picture_that_many_share_does_not_make_their_words_one(gallery: Gallery) -> None:
    """Row 1 and 2 show that there is no photograph; the words of row 0 may find that, and not what row 3 shows."""
    captions, there = ["red", "red", "blue", "blue"], np.ones(ROWS, bool)
    features = replace(gallery.features, has_text_B=there)
    relevant = list_relevant(replace(gallery, hashes=["1", "none", "none", "4"], captions=captions, features=features))
    assert relevant["text_to_image"] == [[0, 1, 2], [0, 1, 2], [1, 2, 3], [1, 2, 3]]
    assert relevant["image_to_text"] == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3], [2, 3]]


def test_a_wish_with_several_targets_is_answered_by_each_and_not_by_a_copy_of_the_picture_that_asks(
    gallery: Gallery,
) -> None:
    """Row 3 is the picture of row 0 again."""
    many = replace(gallery, hashes=["1", "2", "3", "1"], pairs=[(0, "another", 1), (0, "another", 2), (0, "blue", 2)])
    relevant = list_relevant(many)
    assert relevant["relative"] == relevant["relative_indexed"] == [[1, 2], [1, 2], [2]]
    left_out = {one.name: one.relevance.left_out_QN.toarray()[0].tolist() for one in list_query_sets(many)}
    assert left_out["relative"] == [True, False, False, True]
    assert left_out["relative_indexed"] == [True, False, False, False]


def test_judgements_of_a_block_are_those_of_its_queries_as_a_naive_loop_finds_them(gallery: Gallery) -> None:
    rng = np.random.default_rng(0)
    labels = [[str(label) for label in rng.choice(6, rng.integers(0, 4), replace=False)] for _ in range(ROWS)] * 5
    many = replace(gallery, ids=[str(n) for n in range(20)], labels=labels, cluster_N=np.arange(20), pairs=[])
    (shared,) = [one for one in list_query_sets(many) if one.name == "label"]
    naive = [[m for m in range(20) if m != n and set(labels[n]) & set(labels[m])] for n in range(20)]
    assert shared.asking_Q.tolist() == [n for n in range(20) if naive[n]]
    block = shared.relevance.judge(3, 9)
    found = [block.item_J[a:b].tolist() for a, b in pairwise(block.start_Q1)]
    assert found == [naive[n] for n in shared.asking_Q[3:9]]


@pytest.mark.slow
def test_an_evaluation_is_of_as_many_dimensions_as_are_embedded(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(released)
    ingested, split, encoder = (Path("data") / name for name in ("ingested", "split", "encoder"))
    found = []
    for dimensions in (None, 8):
        embed(ingested, encoder, tmp_path / "embedded", params=EmbedParams(dimensions=dimensions))
        places = {"embedded": tmp_path / "embedded", "out": tmp_path / "out", "metrics": tmp_path / "metrics.json"}
        found.append(evaluate(ingested, split, encoder, golden=Path("golden"), params=EvaluateParams(), **places))
    whole, short = (metrics["text_to_image"]["fused"]["map"] for metrics in found)
    assert whole == json.loads(Path("metrics.json").read_text())["text_to_image"]["fused"]["map"]
    loaded = Encoder.load(encoder)
    gallery = load_gallery(ingested, split, towers_folder=encoder)
    by_hand = next(iter(measure_encoder(loaded.shorten(8), gallery, ks=[1, 5, 10])))
    assert short == pytest.approx(by_hand.figures["map"].mean())
    assert short != pytest.approx(whole)
    vector_ND = loaded.shorten(8).encode([None], ["a red square"])
    assert np.allclose(vector_ND, shorten_vectors(loaded.encode([None], ["a red square"]), 8, "cosine"))
    assert loaded.shorten(10_000).dimensions == loaded.dimensions


@pytest.mark.slow
def test_any_encoder_is_measured_on_given_items_as_the_evaluation_measures_its_own(released: Path) -> None:
    encoder = Encoder.load(released / "data/encoder")
    gallery = load_gallery(released / "data/ingested", released / "data/split", towers_folder=released / "data/encoder")
    metrics = json.loads((released / "metrics.json").read_text())
    measured = list(measure_encoder(encoder, gallery, ks=(1, 10)))
    assert {one.query_set for one in measured} == set(metrics) - {"counts"} >= {"text_to_image", "label"}
    for one in measured:
        expected = metrics[one.query_set][one.system]
        assert len(one.ids) == len(one.cluster_Q) == expected["queries"]
        for name in ("map", "hit@1", "hit@10"):
            assert one.figures[name].mean() == pytest.approx(expected[name], abs=1e-9)


def test_a_part_with_a_single_item_has_nothing_to_search(tmp_path: Path) -> None:
    items = {"id": ["a", "b"], "image": [b"", b""], "captions": [[], []], "labels": [[], []], "sha256": ["1", "2"]}
    write_table(tmp_path / "items-00000.parquet", pa.table(items))
    write_table(tmp_path / "split.parquet", pa.table({"id": ["a", "b"], "split": ["train", "test"], "cluster": [0, 1]}))
    with pytest.raises(SplitError, match=r"raise split\.test"):
        load_gallery(tmp_path, tmp_path, towers_folder=tmp_path)
