"""The page of an evaluation shows every figure that is there, and needs no network."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import COLOURS, draw
from memory import measure_share, write_shards

from cbir.answers import QUERY_SETS
from cbir.answers import SYSTEMS as ALL_SYSTEMS
from cbir.errors import WorkspaceError
from cbir.evaluation_page import write_evaluation_page
from cbir.evaluation_page.charts import group_history
from cbir.evaluation_page.tables import QUERIES, SYSTEMS
from cbir.images import encode_png
from cbir.records import ITEM_SCHEMA, write_table
from cbir.report import render_table

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
CAPTION = "<script>alert(1)</script> a red square"
EXAMPLES = {
    "system": "fused_both",
    "best": [
        {
            "query": "s/0",
            "picture": "s/0",
            "words": CAPTION,
            "average_precision": 0.75,
            "hits": [{"id": "s/1", "score": 0.875, "relevant": True}],
        }
    ],
    "worst": [
        {
            "query": "a <name>",
            "picture": None,
            "words": "a <name>",
            "average_precision": 0.125,
            "hits": [{"id": "s/0", "score": 0.5, "relevant": False}, {"id": "gone", "score": 0.25, "relevant": True}],
        }
    ],
}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What train and evaluate leave behind, for two items."""
    for name in ("data/encoder", "data/evaluated", "data/split"):
        (tmp_path / name).mkdir(parents=True)
    history = [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0, "some new figure": 0.5}]
    (tmp_path / "data/encoder/history.json").write_text(json.dumps(history))
    curves = [{"task": "label", "system": "sum", "recall": r, "precision": 1 - r / 2} for r in (0.0, 0.5, 1.0)]
    (tmp_path / "data/evaluated/curves.json").write_text(json.dumps(curves))
    metrics = {"counts": {"items": 2}, "label": {"sum": {"map": 0.123, "hit@1": 0.5}, "image_only": {"map": 0.456}}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    for name in ("statistics", "slices"):
        (tmp_path / f"data/evaluated/{name}.json").write_text("{}")
    (tmp_path / "data/evaluated/golden.json").write_text("[]")
    (tmp_path / "data/split/split.json").write_text(json.dumps({"train": 1234, "test_items_near_training": 17}))
    (tmp_path / "data/evaluated/examples.json").write_text(json.dumps({"label": EXAMPLES}))
    image = encode_png(draw(COLOURS["red"], seed=0))
    rows = [{"id": f"s/{n}", "image": image, "captions": [CAPTION], "labels": ["red"]} for n in range(2)]
    write_table(tmp_path / "data/ingested/items-00000.parquet", pa.Table.from_pylist(rows, schema=ITEM_SCHEMA))
    return tmp_path


def test_a_history_is_read_by_whatever_figures_it_has_and_when() -> None:
    history = [{"epoch": 0, "loss": 2.0}, {"epoch": 1, "loss": 1.0, "map": 0.5, "note": "x", "hit": None}]
    assert group_history(history) == {"loss": [(0, 2.0), (1, 1.0)], "map": [(1, 0.5)]}


def test_the_page_holds_figures_curves_and_pictures_and_loads_nothing(workspace: Path) -> None:
    page = write_evaluation_page(workspace, now=NOW).read_text()
    assert "12.3" in page
    assert "45.6" in page
    assert page.count("<svg") == 2
    assert page.count("data:image/jpeg") == 3
    assert "<script" not in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_the_page_has_few_of_the_catalogues_pictures_in_memory_at_a_time(workspace: Path) -> None:
    write_shards(workspace / "data/ingested")
    assert measure_share(lambda: write_evaluation_page(workspace, now=NOW)) < 0.5
    assert (workspace / "reports/evaluation.html").read_text().count("data:image/jpeg") == 3


def test_the_page_names_the_encoder_the_data_and_the_date(workspace: Path) -> None:
    (workspace / "data/embedded").mkdir()
    (workspace / "data/embedded/embedded.json").write_text('{"fingerprint": "c0ffee"}')
    (workspace / "dvc.lock").write_text("stages: {ingest: {deps: [{path: data/raw, md5: abc.dir}]}}")
    page = write_evaluation_page(workspace, now=NOW).read_text()
    shown = ("encoder", "c0ffee"), ("data revision", "abc.dir"), ("items", "2"), ("written", "2026-01-02 03:04 UTC")
    assert " · ".join(f"{name} <b>{value}</b>" for name, value in shown) in page


def find_row(name: str, *figures: str) -> str:
    """How a row is written: what has no words stands to the right."""
    return f"<td>{name}</td>" + "".join(f"<td class=number>{figure}</td>" for figure in figures)


def test_a_column_of_words_stands_to_the_left_and_one_of_figures_to_the_right() -> None:
    table = render_table(
        ["slice", "metric", "this", "interval"], [["1", "map", "80.8", "69.3 to 89.3"], ["2", "p", "-", ""]]
    )
    assert "<td>1</td><td>map</td><td class=number>80.8</td><td class=number>69.3 to 89.3</td>" in table
    assert "<th>slice</th><th>metric</th><th class=number>this</th><th class=number>interval</th>" in table


def test_a_figure_shows_its_interval_and_a_comparison_by_how_much(workspace: Path) -> None:
    above = {"sum": {"difference": 0.15, "low": 0.1, "high": 0.2, "p_value": 0.0005}}
    sure = {"interval": {"map": {"low": 0.7, "high": 0.8}}, "above": above}
    (workspace / "metrics.json").write_text(json.dumps({"label": {"fused_both": {"map": 0.75}, "sum": {"map": 0.6}}}))
    (workspace / "data/evaluated/statistics.json").write_text(json.dumps({"label": {"fused_both": sure}}))
    page = write_evaluation_page(workspace, now=NOW).read_text()
    for shown in (
        "75.0 (70.0\N{EN DASH}80.0)",
        "fused_both above",
        "+15.0 (+10.0 to +20.0)",
        "\N{LESS-THAN OR EQUAL TO} 0.001",
    ):
        assert shown in page


@pytest.mark.parametrize("missing", ["metrics.json", "data/encoder/history.json", "data/evaluated/examples.json"])
def test_a_missing_file_names_the_stage_to_run(workspace: Path, missing: str) -> None:
    (workspace / missing).unlink()
    with pytest.raises(WorkspaceError, match=r"run `dvc repro (train|evaluate)` first"):
        write_evaluation_page(workspace, now=NOW)


def test_what_could_have_leaked_is_on_the_page(workspace: Path) -> None:
    page = write_evaluation_page(workspace, now=NOW).read_text()
    assert find_row("test items with a near duplicate among those learnt from", "17") in page
    assert find_row("training items", "1,234") in page


def test_both_is_set_beside_the_better_of_picture_and_words_and_beside_their_sum(workspace: Path) -> None:
    systems = {"fused_image": {"map": 0.2}, "fused_text": {"map": 0.4}, "fused_both": {"map": 0.7}}
    above = {
        name: {"difference": points / 100, "low": 0.0, "high": 0.6, "p_value": 0.5}
        for name, points in (("fused_image", 50), ("fused_text", 30), ("fused_sum", -2))
    }
    (workspace / "metrics.json").write_text(json.dumps({"relative": systems}))
    (workspace / "data/evaluated/statistics.json").write_text(
        json.dumps({"relative": {"fused_both": {"interval": {}, "above": above}}})
    )
    page = write_evaluation_page(workspace, now=NOW).read_text()
    row = ["relative", "20.0", "40.0", "70.0", "+30.0 (+0.0 to +60.0)", "\N{MINUS SIGN}2.0 (+0.0 to +60.0)", "-"]
    assert find_row(*row) in page


def test_a_slice_shows_its_figures_and_one_of_few_queries_its_number(workspace: Path) -> None:
    interval = {"map": {"low": 0.1, "high": 0.3}}
    found = {
        "system": "sum",
        "scored": {"food": {"queries": 40, "map": 0.2, "interval": interval}},
        "too_few": {"<flags>": 3},
        "too_few_slices": 1,
    }
    metrics = {"label": {"sum": {"map": 0.123, "queries": 43}}}
    (workspace / "metrics.json").write_text(json.dumps(metrics))
    statistics = {"label": {"sum": {"interval": {"map": {"low": 0.05, "high": 0.2}}}}}
    (workspace / "data/evaluated/statistics.json").write_text(json.dumps(statistics))
    (workspace / "data/evaluated/slices.json").write_text(json.dumps({"label": {"label": found}}))
    page = write_evaluation_page(workspace, now=NOW).read_text()
    assert find_row("food", "40", "20.0 (10.0\N{EN DASH}30.0)") in page
    assert find_row("all", "43", "12.3 (5.0\N{EN DASH}20.0)") in page
    assert "&lt;flags&gt; (3)" in page


def test_golden_queries_show_their_picture_and_their_hits_with_grades(workspace: Path) -> None:
    (workspace / "golden").mkdir()
    draw(COLOURS["blue"], seed=1).save(workspace / "golden/mine.png")
    hits = [{"id": "s/1", "score": 0.9, "grade": 2}, {"id": "s/0", "score": 0.8, "grade": 0}]
    query = {"query": "blue", "text": "a <blue> one", "image": "mine.png", "average_precision": 1.0, "hits": hits}
    (workspace / "data/evaluated/golden.json").write_text(json.dumps([query]))
    page = write_evaluation_page(workspace, now=NOW).read_text()
    assert "blue: a &lt;blue&gt; one + mine.png (average precision 1.00)" in page
    assert page.index("the query&#x27;s picture") < page.index("grade 2") < page.index("not relevant")
    assert page.count("data:image/jpeg") == 3 + 3


def test_a_query_is_shown_with_what_it_asks_and_its_first_hits_relevant_ones_framed(workspace: Path) -> None:
    page = write_evaluation_page(workspace, now=NOW).read_text()
    best, worst = (
        page.index("best, average precision 0.75"),
        page.index("worst, average precision 0.12: a &lt;name&gt;"),
    )
    assert best < page.index(">asks<") < page.index("class=found") < page.index("0.875") < worst
    assert page.count("class=found") == 1
    assert ">nan" not in page, "what asks has no score"
    assert ">asks<" not in page[worst:], "words alone have no picture"


def test_a_changed_copy_that_asks_is_shown_as_it_was_changed(workspace: Path) -> None:
    examples = {"copy": EXAMPLES | {"worst": []}}
    (workspace / "data/evaluated/examples.json").write_text(json.dumps(examples))
    page = write_evaluation_page(workspace, now=NOW).read_text()
    asked, found = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
    assert page.count(">asks, changed<") == 1
    assert asked != found, "the items have one picture"


def test_what_was_wanted_and_not_among_the_first_hits_stands_at_their_end_with_its_rank(workspace: Path) -> None:
    query = EXAMPLES["worst"][0] | {  # type: ignore[operator]
        "hits": [{"id": "s/0", "score": 0.5, "relevant": False}],
        "wanted": {"id": "s/1", "score": 0.125, "rank": 1234},
    }
    found = EXAMPLES["best"][0] | {"wanted": {"id": "s/1", "score": 0.875, "rank": 1}}  # type: ignore[operator]
    examples = {"label": EXAMPLES | {"best": [found], "worst": [query]}}
    (workspace / "data/evaluated/examples.json").write_text(json.dumps(examples))
    best, worst = write_evaluation_page(workspace, now=NOW).read_text().split("<h3>worst")
    assert "relevant, rank" not in best, "it is among the hits"
    assert worst.index("0.500") < worst.index("class=found") < worst.index("relevant, rank 1,234")


def test_items_of_one_kind_are_not_sliced(workspace: Path) -> None:
    found = {"system": "sum", "scored": {"yes": {"queries": 2}}, "too_few": {}, "too_few_slices": 0}
    (workspace / "data/evaluated/slices.json").write_text(json.dumps({"has_caption": {"label": found}}))
    assert "By kind of item" not in write_evaluation_page(workspace, now=NOW).read_text()


def test_a_golden_hit_that_is_no_longer_an_item_is_left_out(workspace: Path) -> None:
    hits = [{"id": "gone", "score": 0.9, "grade": 1}, {"id": "s/1", "score": 0.8, "grade": 0}]
    query = {"query": "red", "text": "a red thing", "image": None, "average_precision": 0.5, "hits": hits}
    (workspace / "data/evaluated/golden.json").write_text(json.dumps([query]))
    page = write_evaluation_page(workspace, now=NOW).read_text()
    assert "not relevant" in page
    assert "grade 1" not in page


def test_every_query_set_and_system_has_words_on_the_page() -> None:
    assert {*QUERY_SETS, "golden"} == set(QUERIES)
    assert set(ALL_SYSTEMS) == set(SYSTEMS)
