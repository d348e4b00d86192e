"""What is cleaned up is old and unwanted; what is live, wanted or being written stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from small_releases import NOW, make_registry, make_release, write_outputs

from cbir.errors import ReleaseError
from cbir.index.tables import drop_table, publish_table
from cbir.promotion import pin_release, roll_back, unpin_release
from cbir.registry import Registry
from cbir.retention import clean_up, plan_cleaning
from cbir.workspace import locate_gate

LATER = datetime.now(UTC) + timedelta(days=30)


@pytest.fixture
def six(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Releases 1 to 6, of which 1, 2 and then 3 were made live."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry = make_registry(tmp_path)
    for number, name in enumerate("abcdef"):
        release = make_release(tmp_path, fingerprint=name)
        if number < 3:
            registry.promote(release, reason="better", now=NOW)
    return registry


def list_tables(workspace: Path) -> list[str]:
    return sorted(path.stem for path in (workspace / "lancedb").iterdir())


def plan(workspace: Path, *, keep: int = 1, now: datetime = LATER) -> list[str]:
    return [removal.version for removal in plan_cleaning(workspace, keep=keep, now=now)]


def test_the_live_one_the_one_before_the_newest_and_no_other_stay(six: Registry, tmp_path: Path) -> None:
    assert plan(tmp_path) == ["1", "4", "5"]
    assert plan(tmp_path, keep=3) == ["1"]
    assert plan(tmp_path, keep=6) == []


def test_what_is_pinned_or_before_the_gate_stays_and_goes_when_it_is_not_any_more(
    six: Registry, tmp_path: Path
) -> None:
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.set_registered_model_alias("cbir", "challenger", "4")
    pin_release(tmp_path, version="1", reason="for the audit", now=NOW)
    assert plan(tmp_path) == ["5"]
    unpin_release(tmp_path, version="1", reason="", now=NOW)
    client.delete_registered_model_alias("cbir", "challenger")
    assert plan(tmp_path) == ["1", "4", "5"]
    with pytest.raises(ReleaseError, match="is not pinned"):
        unpin_release(tmp_path, version="1", reason="", now=NOW)


def test_after_a_rollback_what_the_next_one_goes_back_to_stays(six: Registry, tmp_path: Path) -> None:
    roll_back(tmp_path, to=None, reason="wrong hits", now=NOW)
    assert plan(tmp_path) == ["3", "4", "5"]


def test_cleaning_frees_what_it_said_and_leaves_figures_and_evidence(six: Registry, tmp_path: Path) -> None:
    planned = plan_cleaning(tmp_path, keep=1, now=LATER)
    for release in six.list_releases():
        locate_gate(tmp_path, release.key).mkdir(parents=True)
    gone = clean_up(tmp_path, planned, now=NOW)
    assert gone == planned
    left = {path.name for path in (tmp_path / ".cbir/gate").iterdir()}
    assert left == {release.key for release in six.list_releases()}
    assert list_tables(tmp_path) == ["release_v2", "release_v3", "release_v6"]
    assert [release.version for release in six.list_releases()] == ["6", "3", "2"]
    assert [(entry["action"], entry["version"]) for entry in six.read_log()[3:]] == [("gc", v) for v in "145"]
    for removal in planned:
        assert removal.release is not None
        assert removal.table_bytes > 0
        assert removal.model_bytes > 100_000  # the library's code is in it
        assert six.measure_model(removal.release) == 0
        assert six.read_metrics(removal.release)["label.fused_both.map"] == 0.5
        assert six.fetch_evidence(removal.release, "metrics.json").exists()
    assert plan(tmp_path) == []
    assert six.get_champion().version == "3"


def test_a_release_that_was_cleaned_up_can_be_registered_again_under_a_new_number(
    six: Registry, tmp_path: Path
) -> None:
    clean_up(tmp_path, plan_cleaning(tmp_path, keep=1, now=LATER), now=NOW)
    assert make_release(tmp_path, fingerprint="a").version == "7"


def test_what_was_promoted_between_the_plan_and_the_cleaning_stays(six: Registry, tmp_path: Path) -> None:
    planned = plan_cleaning(tmp_path, keep=1, now=LATER)
    six.promote(six.get_version("4"), reason="better", now=NOW)
    assert [removal.version for removal in clean_up(tmp_path, planned, now=NOW)] == ["1", "5"]
    assert "release_v4" in list_tables(tmp_path)


def test_a_cleaning_that_was_killed_is_finished_by_the_next(
    six: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(MlflowClient, "delete_model_version", kill)
        with pytest.raises(KeyboardInterrupt):
            clean_up(tmp_path, plan_cleaning(tmp_path, keep=1, now=LATER), now=NOW)
    clean_up(tmp_path, plan_cleaning(tmp_path, keep=1, now=LATER), now=NOW)
    assert [release.version for release in six.list_releases()] == ["6", "3", "2"]


def kill(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_release_that_a_run_has_just_registered_again_stays(six: Registry, tmp_path: Path) -> None:
    MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").set_model_version_tag("cbir", "1", "wanted_at", NOW.isoformat())
    assert plan(tmp_path, now=NOW + timedelta(hours=23)) == ["4", "5"]
    assert plan(tmp_path, now=NOW + timedelta(hours=25)) == ["1", "4", "5"]


def test_a_table_of_no_release_goes_after_a_day_and_tables_of_others_never(six: Registry, tmp_path: Path) -> None:
    tables = tmp_path / "lancedb"
    for name in ("release_v99", "mine", "release_vx"):
        shutil.copytree(tables / "release_v1.lance", tables / f"{name}.lance")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    for version in ("4", "5"):
        client.delete_model_version("cbir", version)
    half = tables / "release_v4.lance"  # as a killed writer leaves it
    shutil.rmtree(half / "_versions")
    written = max(path.stat().st_mtime for path in tables.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in half.rglob("*") if path.is_file())
    soon, late = (datetime.fromtimestamp(written, UTC) + timedelta(hours=hours) for hours in (1, 30))
    assert plan(tmp_path, keep=6, now=soon) == []
    planned = plan_cleaning(tmp_path, keep=6, now=late)
    assert {(removal.table, removal.why) for removal in planned} == {
        ("release_v4", "of no release"),
        ("release_v5", "of no release"),
    }
    assert next(removal.table_bytes for removal in planned if removal.version == "4") == size
    clean_up(tmp_path, planned, now=NOW)
    left = ["mine", "release_vx", "release_v99", *(f"release_v{n}" for n in (1, 2, 3, 6))]
    assert list_tables(tmp_path) == sorted(left)


def forget_the_server(workspace: Path) -> None:
    """As a shell in which MLFLOW_TRACKING_URI is not set: an empty registry opens."""
    make_registry(workspace)


def rename(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("release: {name: shop}")


def begin_anew(workspace: Path) -> None:
    """Another registry of the same name has releases of its own, with higher numbers, and shares the index."""
    make_registry(workspace)
    tables = workspace / "lancedb"
    tables.rename(workspace / "moved")
    for number in range(8):
        make_release(workspace, fingerprint=f"other {number}")
    for table in tables.iterdir():
        if not (workspace / "moved" / table.name).exists():
            table.rename(workspace / "moved" / table.name)
    shutil.rmtree(tables)
    (workspace / "moved").rename(tables)


@pytest.mark.parametrize("open_another", [forget_the_server, rename, begin_anew])
def test_no_table_that_another_registry_made_is_ever_planned(
    six: Registry, tmp_path: Path, open_another: Callable[[Path], None]
) -> None:
    open_another(tmp_path)
    tables = {removal.table for removal in plan_cleaning(tmp_path, keep=1, now=LATER)}
    assert tables & {f"release_v{n}" for n in range(1, 7)} == set()


@pytest.mark.parametrize("releases", [0, 3])
def test_without_a_mark_only_what_is_below_the_newest_release_counts_as_of_no_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, releases: int
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_registry(tmp_path)
    for number in range(releases):
        make_release(tmp_path, fingerprint=str(number))
    for version in (2, 4):
        table = f"release_v{version}"
        drop_table(uri=str(tmp_path / "lancedb"), table=table)
        data = tmp_path / "data"
        write_outputs(tmp_path, fingerprint="old", average_precision={"s/0": 0.5})
        publish_table(
            uri=str(tmp_path / "lancedb"), table=table, ingested=data / "ingested", embedded=data / "embedded"
        )
    if releases:
        MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").delete_model_version("cbir", "2")
    assert plan(tmp_path, keep=9) == (["2"] if releases else [])


def test_one_release_is_kept_at_least(six: Registry, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="--keep 1 or more"):
        plan(tmp_path, keep=0)


def test_where_the_history_does_not_say_what_is_live_all_that_ever_was_stays(six: Registry, tmp_path: Path) -> None:
    MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").delete_registered_model_alias("cbir", "champion")
    assert plan(tmp_path) == ["4", "5"]
