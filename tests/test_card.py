"""A reviewer sees what a release is, what got worse beside the champion, and how to make it again."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from memory import measure_share, write_shards
from mlflow.tracking import MlflowClient
from small_releases import IDS, NOW, make_registry, make_release

from cbir.card import Card, gather_card, list_slices, pair_scores, select_worse
from cbir.card_page import LONGEST, log_card, render_description, render_markdown, render_sections
from cbir.registry import Registry

BEFORE = dict(zip(IDS, (1.0, 0.5, 0.2, 0.9), strict=True))
AFTER = dict(zip(IDS, (0.4, 0.5, 0.3, 0.8), strict=True))
COMMITTED = {"git_commit": "c0ffee", "git_dirty": "false"}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Release 1 is live, release 2 answers two queries worse and one better."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry = make_registry(tmp_path)
    registry.promote(make_release(tmp_path, fingerprint="a", average_precision=BEFORE), reason="first", now=NOW)
    make_release(tmp_path, fingerprint="b", average_precision=AFTER, facts=COMMITTED)
    return registry


def gather(registry: Registry, workspace: Path, version: str) -> Card:
    return gather_card(workspace, registry=registry, release=registry.get_version(version))


def test_figures_stand_beside_the_champions_and_the_worst_losses_come_first(registry: Registry, tmp_path: Path) -> None:
    card = gather(registry, tmp_path, "2")
    assert card.against == "1"
    figure = card.figures[0]
    assert (figure.metric, figure.value, figure.before) == (
        "label.fused_both.map",
        pytest.approx(0.5),
        pytest.approx(0.65),
    )
    assert (figure.low, figure.high) == (pytest.approx(0.4), pytest.approx(0.6))
    [difference] = card.differences
    assert (difference.queries, difference.difference) == (4, pytest.approx(-0.15))
    assert [(row.query, row.before, row.after) for row in card.worse] == [("s/0", 1.0, 0.4), ("s/3", 0.9, 0.8)]
    assert card.worse_in_all == 2
    assert card.worse[0].thumbnail.startswith(b"\xff\xd8")


def test_a_card_has_few_of_the_catalogues_pictures_in_memory_at_a_time(registry: Registry, tmp_path: Path) -> None:
    write_shards(tmp_path / "data/ingested")
    assert measure_share(lambda: gather(registry, tmp_path, "2")) < 0.5


def test_a_release_that_is_live_is_compared_with_the_one_before(registry: Registry, tmp_path: Path) -> None:
    registry.promote(registry.get_version("2"), reason="second", now=NOW)
    assert gather(registry, tmp_path, "2").against == "1"


def test_the_first_release_has_nothing_to_be_compared_with(registry: Registry, tmp_path: Path) -> None:
    card = gather(registry, tmp_path, "1")
    assert (card.against, card.differences, card.worse) == (None, [], [])
    assert "no champion" in render_markdown(card)
    assert "| difference" not in render_markdown(card)


def test_the_card_is_logged_and_its_short_form_is_on_the_versions_page(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "card"
    for _ in range(2):
        log_card(tmp_path, registry=registry, release=registry.get_version("2"), folder=folder)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    version = client.get_model_version("cbir", "2")
    logged = {entry.path for entry in client.list_artifacts(version.run_id)}
    assert {"model_card.html", "model_card.md", "model", "evidence"} == logged
    assert "label.fused_both.map | 50.0 | 40.0 to 60.0 | 65.0 | -15.0" in version.description
    assert "`cbir-ops repro --verify 2` checks out commit `c0ffee`" in version.description
    page = (folder / "model_card.html").read_text()
    assert page.count("data:image/jpeg") == 2
    assert "&lt;b&gt;picture&lt;/b&gt; s/0" in page
    assert "<b>picture" not in page
    assert "http" not in page


def test_a_release_of_files_that_are_not_committed_says_so_and_what_to_do(registry: Registry, tmp_path: Path) -> None:
    text = render_markdown(gather(registry, tmp_path, "1"))
    assert "cannot be made again" in text
    assert "release.commit: true" in text


def test_a_gate_that_refused_is_named_with_its_reasons_and_each_rule(registry: Registry, tmp_path: Path) -> None:
    rules = [
        {"name": "floor", "verdict": "pass", "sentence": "it is above", "binding": True},
        {"name": "worse", "verdict": "fail", "sentence": "label is | 15 points lower", "binding": True},
        {"name": "few", "verdict": "fail", "sentence": "for information", "binding": False},
    ]
    (tmp_path / "gate.json").write_text(json.dumps({"verdict": "fail", "rules": rules}))
    release = registry.get_version("2")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.log_artifact(release.run_id, str(tmp_path / "gate.json"), "evidence")
    card = gather(registry, tmp_path, "2")
    text = render_markdown(card)
    assert "**Gate: fail**, because of worse." in text
    assert "| worse | FAIL | label is \\| 15 points lower |" in text
    assert "| few | told | for information |" in text
    assert text.index("| worse |") < text.index("| floor |") < text.index("| few |"), "what kept it back comes first"
    shown, folded = "".join(render_sections(card)).split("<details><summary>1 that are told and do not count</summary>")
    assert "<td>floor</td>" in shown
    assert "for information" in folded.partition("</details>")[0]


def test_a_description_is_never_longer_than_mlflow_keeps(registry: Registry, tmp_path: Path) -> None:
    card = gather(registry, tmp_path, "1")
    card.release.tags["git_changed"] = "x" * LONGEST  # type: ignore[index]
    assert len(render_description(card)) == LONGEST


def test_code_and_bold_are_marked_up_and_the_rest_is_escaped(registry: Registry, tmp_path: Path) -> None:
    html = "".join(render_sections(gather(registry, tmp_path, "2")))
    assert "<code>release_v2</code>" in html
    assert "`" not in html


def frame(*rows: tuple[str, str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["task", "system", "query", "average_precision"])


def test_queries_are_paired_by_task_and_turn_and_only_where_both_were_asked_as_often() -> None:
    before = frame(
        ("relative", "fused_both", "a", 0.1),
        ("relative", "fused_both", "a", 0.2),
        ("relative", "fused_both", "b", 0.3),
        ("relative", "sum", "a", 0.9),
        ("text_to_image", "fused", "a", 0.4),
        ("text_to_image", "fused", "gone", 0.4),
    )
    after = frame(
        ("relative", "fused_both", "a", 0.5),
        ("relative", "fused_both", "a", 0.6),
        ("relative", "fused_both", "b", 0.7),
        ("relative", "fused_both", "b", 0.8),
        ("text_to_image", "fused", "a", 0.3),
        ("text_to_image", "fused", "new", 0.3),
    )
    scores = pair_scores(before, after, clusters={"a": "7"})
    assert scores.to_dict("records") == [
        {"metric": "relative.fused_both.map", "query": "a", "cluster": "7", "before": 0.1, "after": 0.5},
        {"metric": "relative.fused_both.map", "query": "a", "cluster": "7", "before": 0.2, "after": 0.6},
        {"metric": "text_to_image.fused.map", "query": "a", "cluster": "7", "before": 0.4, "after": 0.3},
    ]
    assert select_worse(scores)["after"].tolist() == [0.3]


def test_nothing_in_common_is_no_fault() -> None:
    scores = pair_scores(
        frame(("label", "fused_both", "a", 0.1)), frame(("label", "fused_both", "b", 0.1)), clusters={}
    )
    assert (len(scores), len(select_worse(scores))) == (0, 0)


def test_slices_stand_beside_the_champions() -> None:
    def measure(value: float) -> dict[str, object]:
        row = {"queries": 40, "map": value, "interval": {"map": {"low": value - 0.1, "high": value + 0.1}}}
        return {"label": {"label": {"system": "fused_both", "scored": {"animals": row}, "too_few": {}}}}

    [(name, figure)] = list_slices(measure(0.5), measure(0.75))
    assert (name, figure.metric, figure.value, figure.before) == (
        "label=animals",
        "label.fused_both.map",
        0.5,
        0.75,
    )
    assert [row.before for _, row in list_slices(measure(0.5), {})] == [None]
