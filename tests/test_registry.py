"""A release is registered once, promoted once, and a registry that does not answer is not an empty one."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from small_releases import NOW, make_registry, make_release

from cbir.errors import RegistryError, ReleaseError
from cbir.gate_report import shorten_reasons
from cbir.registry import Registry, Release
from cbir.registry.faults import blame_registry
from cbir.registry.trials import TrialRuns
from cbir.workspace import locate_index
from flows.retrain import promote


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make_registry(tmp_path)


def register(registry: Registry, folder: Path, *, rows: str) -> Release:
    encoder = folder / "encoder"
    encoder.mkdir(exist_ok=True)
    (encoder / "encoder.json").write_text("{}")
    return registry.register(
        encoder=encoder,
        fingerprint="f",
        data_revision="d",
        rows_revision=rows,
        metrics={"label": {"hit@10": 0.5}},
        files=[],
        now=NOW,
    )


def test_the_same_release_is_registered_once_and_other_rows_are_another_release(
    registry: Registry, tmp_path: Path
) -> None:
    first = register(registry, tmp_path, rows="a")
    assert register(registry, tmp_path, rows="a") == first
    other = register(registry, tmp_path, rows="b")
    assert (first.table, other.table) == ("release_v1", "release_v2")


def test_promoting_twice_writes_one_line_of_history(registry: Registry, tmp_path: Path) -> None:
    release = register(registry, tmp_path, rows="a")
    for _ in range(2):
        registry.promote(release, reason="better", now=NOW)
    assert registry.get_champion() == release
    assert [(entry["version"], entry["why"]) for entry in registry.read_history()] == [("1", "better")]


def test_a_release_that_was_rolled_back_from_is_not_promoted_again(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    logger = type("Logger", (), {"warning": lambda self, text, *values: said.append(text % values)})()
    monkeypatch.setattr("flows.retrain.get_run_logger", lambda: logger)
    old, new = (register(registry, tmp_path, rows=rows) for rows in "ab")
    for release in (old, new, old):
        registry.promote(release, reason="by hand", now=NOW)
    assert promote.fn(str(tmp_path), new.key) == "kept"
    assert registry.get_champion() == old
    assert said == ["release 2 was live before; 1 stays live"]


def test_only_a_release_that_passed_the_gate_against_what_is_live_is_promoted(
    registry: Registry, tmp_path: Path
) -> None:
    live, new, newer = (register(registry, tmp_path, rows=rows) for rows in "abc")
    registry.promote(live, reason="by hand", now=NOW)
    registry.record_gate(newer, [], tags={"verdict": "fail", "champion": "1"})
    for release in (new, newer):
        with pytest.raises(ReleaseError, match="has not passed the gate against what is live"):
            promote.fn(str(tmp_path), release.key)
    registry.record_gate(new, [], tags={"verdict": "pass", "champion": "7"})
    with pytest.raises(ReleaseError, match="run `cbir-ops retrain` again"):
        promote.fn(str(tmp_path), new.key)
    assert registry.get_champion() == live
    registry.record_gate(new, [], tags={"verdict": "pass", "champion": "1"})
    assert promote.fn(str(tmp_path), new.key) == "promoted"
    assert registry.get_champion() == new


@pytest.mark.parametrize("done", range(5))
def test_a_decision_that_was_killed_halfway_is_none_and_an_earlier_one_is_none_any_more(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    release = register(registry, tmp_path, rows="a")
    tags = {"verdict": "fail", "reasons": "superior", "champion": "none", "again": "False", "key": "k"}
    registry.record_gate(release, [], tags=tags)
    assert registry.read_gate_tags(release) == tags
    left, write = [True] * done, MlflowClient.set_model_version_tag

    def write_some(*values: str) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        write(*values)

    with monkeypatch.context() as killed:
        killed.setattr(MlflowClient, "set_model_version_tag", write_some)
        with pytest.raises(KeyboardInterrupt):
            registry.record_gate(release, [], tags=tags | {"verdict": "pass", "key": "other"})
    assert registry.read_gate_tags(release) == {}


def test_the_reasons_of_a_decision_fit_into_a_tag_and_say_how_many_are_left_out() -> None:
    assert shorten_reasons(["superior", "golden"]) == "superior, golden"
    line = shorten_reasons([f"non_inferior.label.slice={n:03}" for n in range(400)])
    assert len(line) < 1020
    assert line.endswith(", non_inferior.label.slice=032 and 367 more")


def test_a_challenger_is_one_until_it_goes_live(registry: Registry, tmp_path: Path) -> None:
    old, new = (register(registry, tmp_path, rows=rows) for rows in "ab")
    registry.promote(old, reason="by hand", now=NOW)
    assert registry.find_challenger() is None
    registry.name_challenger(new)
    assert registry.find_challenger() == new
    registry.promote(new, reason="better", now=NOW)
    assert (registry.find_challenger(), registry.get_champion()) == (None, new)


def test_a_release_that_is_not_there_is_told_from_those_that_are(registry: Registry, tmp_path: Path) -> None:
    first = register(registry, tmp_path, rows="a")
    assert registry.get_version("1") == first
    with pytest.raises(ReleaseError, match="no release 9 in the registry; there are: 1"):
        registry.get_version("9")


def test_a_register_killed_before_its_version_leaves_no_second_run(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(MlflowClient, "create_model_version", kill)
        with pytest.raises(KeyboardInterrupt):
            register(registry, tmp_path, rows="a")
    release = register(registry, tmp_path, rows="a")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("cbir")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [run.data.tags["release_key"] for run in runs] == [release.key]
    assert client.get_model_version("cbir", release.version).run_id == runs[0].info.run_id


def kill(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_where_the_gate_let_none_pass_it_is_said_where_to_read_why(tmp_path: Path) -> None:
    registry = make_registry(tmp_path)
    make_release(tmp_path, fingerprint="a")
    with pytest.raises(ReleaseError, match=r"the gate let none pass: `cbir-ops gate --explain`"):
        registry.get_champion()


def test_no_release_and_no_registry_are_told_apart(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ReleaseError, match="No release is live"):
        registry.get_champion()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead = Registry(tmp_path, name="cbir")
    said = r"^The registry http://127\.0\.0\.1:9 does not answer \(Connection refused\); .* see MLFLOW_TRACKING_URI\.$"
    with pytest.raises(ReleaseError, match=said):
        dead.get_champion()
    for ask in (dead.list_releases, dead.read_log, dead.read_aliases, lambda: dead.find("key")):
        with pytest.raises(ReleaseError, match="does not answer"):
            ask()


def test_trials_of_a_registry_that_does_not_answer_are_told_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=r"9 does not answer \(Connection refused\)"):
        TrialRuns(tmp_path, name="cbir-tuning", study="first")


def test_an_address_that_is_none_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense")
    with pytest.raises(RegistryError, match=r"MLFLOW_TRACKING_URI is 'nonsense', .*give the address of a server"):
        Registry(tmp_path, name="cbir")


def test_an_empty_variable_is_none(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = register(registry, tmp_path, rows="a")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("CBIR_INDEX_URI", "")
    assert Registry(tmp_path, name="cbir").list_releases() == [release]
    assert locate_index(tmp_path) == str(tmp_path / "lancedb")


def test_a_release_whose_run_was_deleted_has_no_figures_and_hides_no_other(registry: Registry, tmp_path: Path) -> None:
    lost, other = (register(registry, tmp_path, rows=rows) for rows in "ab")
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:  # as `mlflow gc` does
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (lost.run_id,))
    assert registry.read_metrics(lost) == {}
    assert registry.read_metrics(other)
    assert [release.version for release in registry.list_releases()] == ["2", "1"]


def test_a_database_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(RegistryError, match=r"mlflow\.db is no database .*restore it from a backup, or move it away"):
        Registry(tmp_path, name="cbir")
    with pytest.raises(RegistryError, match=r"mlflow\.db is no database"):
        TrialRuns(tmp_path, name="cbir", study="first")


def test_a_release_is_found_by_its_aliases_too(registry: Registry, tmp_path: Path) -> None:
    first, second = (register(registry, tmp_path, rows=rows) for rows in "ab")
    with pytest.raises(ReleaseError, match="No release is live"):
        registry.get_version("champion")
    registry.promote(first, reason="by hand", now=NOW)
    registry.name_challenger(second)
    assert (registry.get_version("champion"), registry.get_version("challenger")) == (first, second)
    with pytest.raises(ReleaseError, match="no release shop in the registry; there are: 1, 2"):
        registry.get_version("shop")


def test_an_artifact_that_is_lost_is_named_with_its_run(registry: Registry, tmp_path: Path) -> None:
    release = make_release(tmp_path, fingerprint="f")
    shutil.rmtree(tmp_path / "mlartifacts" / release.run_id)
    with pytest.raises(ReleaseError, match=f"restore evidence/metrics.json of the MLflow run {release.run_id}"):
        registry.fetch_evidence(release, "metrics.json")


def test_a_copy_that_cannot_be_written_to_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    make_registry(first)
    make_release(first, fingerprint="f")
    shutil.copytree(first, second)
    connect = sqlite3.connect
    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", lambda path: connect(f"file:{path}?mode=ro", uri=True))
        with pytest.raises(RegistryError, match=r"mlflow\.db was moved or copied here .* run any command once"):
            Registry(second, name="cbir")
    assert Registry(second, name="cbir").list_releases()


def test_a_registry_that_cannot_be_written_to_is_not_one_that_does_not_answer() -> None:
    error = MlflowException("(sqlite3.OperationalError) attempt to write a readonly database")
    said = "The registry sqlite:///mlflow.db cannot be written to; run in a workspace that you may write to."
    assert str(blame_registry("sqlite:///mlflow.db", error)) == said


def test_a_workspace_that_was_copied_or_moved_has_its_releases_and_writes_into_its_own(tmp_path: Path) -> None:
    first, second, moved = tmp_path / "first", tmp_path / "second", tmp_path / "moved"
    make_registry(first)
    release = make_release(first, fingerprint="f")
    shutil.copytree(first, second)
    assert Registry(second, name="cbir").download_encoder(release).is_relative_to(second)
    before = {path for path in first.rglob("*") if path.is_file()}
    make_release(second, fingerprint="g")
    assert {path for path in first.rglob("*") if path.is_file()} == before
    second.rename(moved)
    found = Registry(moved, name="cbir")
    for one in found.list_releases():
        assert (found.download_encoder(one) / "encoder.json").exists()
        assert found.fetch_evidence(one, "metrics.json").is_relative_to(moved)
