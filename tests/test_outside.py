"""A release is scored on other data through the same path, and the workspace's own data stays as it is."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import COLOURS, cbir, draw

from cbir.errors import ReleaseError, SourceError
from cbir.outside import evaluate_outside, locate_encoder
from cbir.records import read_table, write_table

pytestmark = pytest.mark.slow
NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def draw_others(folder: Path, *, captions: bool = True) -> Path:
    """Twelve pictures that no release has seen, four of each of three colours."""
    folder.mkdir()
    for n in range(12):
        name = list(COLOURS)[n % 3]
        draw(COLOURS[name], seed=100 + n).save(folder / f"{n:02d}.png")
        if captions:
            (folder / f"{n:02d}.txt").write_text(f"a {name} square")
    return folder


def list_files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_the_command_scores_the_champion_on_a_folder_and_leaves_the_data_alone(live: Path, tmp_path: Path) -> None:
    before = list_files(live / "data")
    done = cbir(live, "evaluate", "--data", str(draw_others(tmp_path / "Others")), "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics["counts"] == {"items": 12, "quarantined": 0, "relative": 0, "items_near_training": 0}
    assert metrics["text_to_image"]["fused"]["queries"] == 12
    assert 0 < metrics["text_to_image"]["fused"]["map"] <= 1
    page = live / "reports/evaluation-others.html"
    assert str(page) in done.stderr
    assert "12 items, 0 that cannot be used; 0 of them have a near duplicate among the items" in done.stderr
    shown = page.read_text()
    assert "Evaluation on others" in shown
    assert "release <b>1</b>" in shown
    assert f"data <b>{tmp_path / 'Others'}</b>" in shown
    assert "<p>12 items, 0 that cannot be used" in shown, "no warning"
    assert list_files(live / "data") == before
    assert not list((live / ".cbir/scratch").iterdir())


def test_items_that_the_workspace_trains_on_are_counted(released: Path, live: Path) -> None:
    catalogue = released.parent / "catalogue"
    found = evaluate_outside(str(catalogue), encoder_folder=live / "data/encoder", workspace=live, now=NOW)
    split = json.loads((live / "data/split/split.json").read_text())
    near = split["train"] + split["validation"]
    assert found.metrics["counts"]["items_near_training"] == near
    page = found.page.read_text()
    assert f"<p class=warning>48 items, 0 that cannot be used; {near} of them have a near duplicate" in page
    assert "evaluated <b>2026-01-02 03:04 UTC</b>" in page
    assert found.metrics["label"]["fused_both"]["queries"] == 48


def split_anew(workspace: Path, part: str) -> None:
    """Say of every item of the workspace's present split that it is in ``part``."""
    path = workspace / "data/split/split.parquet"
    where = read_table(path, made_by="split")
    write_table(path, where.set_column(1, "split", pa.array([part] * len(where))))


def test_what_a_release_learnt_from_is_counted_and_not_what_the_workspace_trains_on_now(
    released: Path, live: Path
) -> None:
    split = json.loads((live / "data/split/split.json").read_text())
    split_anew(live, "test")
    done = cbir(live, "evaluate", "--data", str(released.parent / "catalogue"), "--release", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["items_near_training"] == split["train"] + split["validation"]
    assert "present split" not in done.stderr


def test_of_a_release_that_recorded_no_split_the_present_one_is_taken_and_a_warning_says_so(
    released: Path, live: Path
) -> None:
    for path in (live / "mlartifacts").rglob("split.parquet"):
        path.unlink()
    split_anew(live, "train")
    folder, release = locate_encoder(live, "champion")
    catalogue = str(released.parent / "catalogue")
    found = evaluate_outside(catalogue, encoder_folder=folder, workspace=live, now=NOW, release=release)
    assert found.metrics["counts"]["items_near_training"] == 48
    told = "Release 1 does not say what it learnt from; near duplicates are counted by the workspace's present split."
    assert told in found.warnings
    shutil.rmtree(live / "data/split")
    found = evaluate_outside(catalogue, encoder_folder=folder, workspace=live, now=NOW, release=release)
    assert "items_near_training" not in found.metrics["counts"]
    assert told not in found.warnings


def test_pictures_alone_are_asked_for_by_changed_copies_of_them(live: Path, tmp_path: Path) -> None:
    bare = draw_others(tmp_path / "bare", captions=False)
    found = evaluate_outside(str(bare), encoder_folder=live / "data/encoder", workspace=live, now=NOW)
    assert set(found.metrics) == {"counts", "copy"}
    assert found.metrics["copy"]["fused"]["queries"] == 12
    assert "A changed copy of a picture" in found.page.read_text()


def test_pictures_of_one_label_are_warned_of_for_any_order_of_them_is_right(live: Path, tmp_path: Path) -> None:
    (tmp_path / "alike").mkdir()
    for n in range(3):
        draw(COLOURS["red"], seed=100 + n).save(tmp_path / f"alike/{n}.png")
    (tmp_path / "alike/metadata.csv").write_text("file_name,label\n0.png,red\n1.png,red\n2.png,red\n")
    done = cbir(live, "evaluate", "--data", str(tmp_path / "alike"))
    assert done.returncode == 0, done.stderr
    warnings = [
        "Every item is relevant to every query, any order of them scores 100: label, label_name.",
        "Fewer than 20 queries (evaluate.least_queries), figures say little: label (3), label_name (1).",
    ]
    page = (live / "reports/evaluation-alike.html").read_text()
    for warning in warnings:
        assert warning in done.stderr
        assert f"<p class=warning>{warning}</p>" in page


def test_captions_ask_nothing_of_an_encoder_that_reads_no_words(live: Path, tmp_path: Path) -> None:
    deaf = Path(shutil.copytree(live / "data/encoder", tmp_path / "encoder"))
    config = json.loads((deaf / "encoder.json").read_text())
    (deaf / "encoder.json").write_text(json.dumps(config | {"words": 0}))
    others = draw_others(tmp_path / "others")
    with pytest.raises(SourceError, match="reads no words: give them labels or groups"):
        evaluate_outside(str(others), encoder_folder=deaf, workspace=live, now=NOW)


def test_a_release_that_is_not_live_is_refused(live: Path) -> None:
    assert (locate_encoder(live, "1")[0] / "encoder.json").exists()
    with pytest.raises(ReleaseError, match="There is no release 7 in the registry; there are: 1"):
        locate_encoder(live, "7")
