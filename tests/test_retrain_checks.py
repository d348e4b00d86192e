"""Before a retrain does anything its parameters hold, and no other one runs."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from conftest import ROOT, cbir, set_param

from cbir.errors import GoldenError, ImageError, ParamsError, TowerError, ValidationError, WorkspaceError
from cbir.gate.names import check_names
from cbir.params import SECTIONS as KNOWN
from cbir.params import GateParams
from cbir.records import write_jsonl
from cbir.registry import flatten_metrics
from flows.checks import SECTIONS, check_params
from flows.lock import hold_workspace


def test_every_section_is_checked_and_ours_hold() -> None:
    assert set(SECTIONS) == set(KNOWN)
    check_params.fn(str(ROOT))


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_misspelt_key_in_any_section_fails_before_anything_is_done(tmp_path: Path, name: str) -> None:
    (tmp_path / "params.yaml").write_text(json.dumps({name: {"florr": 1}}))
    with pytest.raises(ParamsError, match=rf"{name}\.florr: unknown key"):
        check_params.fn(str(tmp_path))


def test_the_gate_may_be_asked_about_every_figure_that_an_evaluation_writes() -> None:
    written = flatten_metrics(json.loads((ROOT / "metrics.json").read_text()))
    assert len(written) > 100
    check_names(GateParams(floor=dict.fromkeys(written, 0.0)), ks=(1, 5, 10))


@pytest.mark.parametrize("key", ["protect", "improve"])
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("golden.fused.map", r"golden queries are compared by gate\.golden_margin; drop it here"),
        ("label.bm25.map", r"such as label\.fused_both\.map, or hold it to a gate\.floor"),
        ("text_to_image.fused_both.map", r"hold it to a gate\.floor"),
        ("label.fused_both.queries", r"hold it to a gate\.floor"),
        ("counts.items", r"hold it to a gate\.floor"),
    ],
)
def test_what_champion_and_challenger_do_not_both_answer_cannot_be_compared(key: str, name: str, remedy: str) -> None:
    params = GateParams(protect={name: 0.0}) if key == "protect" else GateParams(improve=(name,))
    with pytest.raises(ParamsError, match=rf"gate\.{key}: {name} is not compared with the champion's; .*{remedy}"):
        check_names(params, ks=(1, 5, 10))


@pytest.mark.parametrize(
    ("section", "text", "said"),
    [
        (
            "gate",
            "floor: {label.fusd_both.map: 0.4}",
            r"gate\.floor: nothing is called label\.fusd_both\.map; did you",
        ),
        ("gate", "improve: [label.fused_both.hit@7]", r"gate\.improve: .*did you mean label\.fused_both\.hit@\d+\?"),
        ("gate", "protect: {foo: 0.1}", r"gate\.protect: nothing is called foo; see metrics\.json"),
        ("gate", "fusion: [labl.fused_both]", r"gate\.fusion: .*did you mean label\.fused_both\?"),
        ("schedule", "cron: 99 3 * * *", r"schedule\.cron: '99 3 \* \* \*' is no cron line"),
        ("embed", "dimensions: 1024", r"embed\.dimensions: 1024, and train\.dimensions is 512"),
        ("validate", "suite: nosuch", r"expectations/nosuch\.json is not there"),
        ("towers", "visual: efficientnet-lite3", r"towers\.visual: .*did you mean efficientnet-lite"),
        ("towers", "text: minilm-l12", r"towers\.text: .*did you mean minilm-l6\?"),
        ("towers", "visual_weights: mine.pth", r"mine\.pth is not there; see the section towers"),
        (
            "towers",
            "visual: open_clip/ViT-B-32, visual_weights: expectations/",
            r"expectations is a folder; name the file",
        ),
        ("tune", "search: {train.lr: {low: 0.1, high: 0.2}}", r"tune\.search\.train\.lr: no parameter of training"),
        ("evaluate", "slices: [labl]", r"evaluate\.slices: no item has the attribute labl; did you mean label\?"),
    ],
)
def test_what_fits_no_other_section_or_file_is_told_before_the_training(
    tmp_path: Path, section: str, text: str, said: str
) -> None:
    write_jsonl(tmp_path / "data/raw/mine/items.jsonl", [{"id": "mine/1", "file_name": "1.png"}])
    (tmp_path / "expectations").mkdir()
    (tmp_path / "expectations/items.json").touch()
    (tmp_path / "params.yaml").write_text(f"{section}: {{{text}}}")
    with pytest.raises((ParamsError, TowerError, ValidationError), match=said):
        check_params.fn(str(tmp_path))
    (tmp_path / "params.yaml").write_text("{}")
    check_params.fn(str(tmp_path))


@pytest.mark.parametrize(
    ("query", "judgement", "said"),
    [
        ({"id": "red", "text": 5}, "red 0 mine/1 1", r"queries\.jsonl, line 1: text: Input should be a valid string"),
        ({"id": "red", "text": "red"}, "red 0 mine/2 1", r"lacks: mine/2; mend or drop"),
        ({"id": "red", "image": "red.png"}, "red 0 mine/1 1", r"red\.png is not a file"),
    ],
)
def test_golden_queries_are_read_before_the_training(
    tmp_path: Path, query: dict[str, object], judgement: str, said: str
) -> None:
    write_jsonl(tmp_path / "data/raw/mine/items.jsonl", [{"id": "mine/1", "file_name": "1.png"}])
    (tmp_path / "expectations").mkdir()
    (tmp_path / "expectations/items.json").touch()
    (tmp_path / "params.yaml").write_text("{}")
    write_jsonl(tmp_path / "golden/queries.jsonl", [query])
    (tmp_path / "golden/qrels.txt").write_text(judgement)
    with pytest.raises((GoldenError, ImageError), match=said):
        check_params.fn(str(tmp_path))
    write_jsonl(tmp_path / "golden/queries.jsonl", [])
    (tmp_path / "golden/qrels.txt").write_text("")
    check_params.fn(str(tmp_path))


@pytest.mark.slow
def test_a_retrain_says_so_of_a_misspelt_key_though_nothing_changed(live: Path, prefect_server: str) -> None:
    set_param(live, "gate", latency_mss=3)
    done = cbir(live, "retrain", PREFECT_API_URL=prefect_server)
    assert (done.returncode, "gate.latency_mss: unknown key; did you mean latency_ms?" in done.stderr) == (2, True)


def test_a_second_run_says_for_whom_it_waits_and_goes_on_when_that_ends(tmp_path: Path) -> None:
    said: list[str] = []
    order: list[str] = []
    first = hold_workspace(tmp_path, say=said.append)
    first.__enter__()

    def run_second() -> None:
        with hold_workspace(tmp_path, say=said.append):
            order.append("second")

    thread = threading.Thread(target=run_second)
    thread.start()
    thread.join(timeout=1.5)
    order.append("first")
    first.__exit__(None, None, None)
    thread.join(timeout=30)
    assert order == ["first", "second"]
    assert [words.startswith("waiting for the retrain of this workspace") for words in said] == [True]
    assert "(process " in said[0]


def test_a_run_that_never_ends_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with (
        hold_workspace(tmp_path, say=print),
        pytest.raises(WorkspaceError, match=r"not ended within 0 s \(process .*wait for it, or stop it"),
        hold_workspace(tmp_path, say=print, patience=0.1),
    ):
        pass
