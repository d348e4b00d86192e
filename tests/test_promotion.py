"""Model and index go live and back together, by one alias move that is written down."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from prefect import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from small_releases import NOW, make_registry, make_release
from tiny_encoder import write_encoder

from cbir.encoder import Encoder
from cbir.errors import CbirError, IndexError_, ReleaseError, TowerError
from cbir.override import promote_against_gate
from cbir.promotion import find_previous, promote_release, roll_back
from cbir.registry import Registry
from cbir.registry.history import stack_champions
from flows.rollback import rollback


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Releases 1, 2 and 3, promoted one after the other."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry = make_registry(tmp_path)
    for name in "abc":
        registry.promote(make_release(tmp_path, fingerprint=name), reason=f"better than before {name}", now=NOW)
    return registry


@pytest.mark.parametrize(
    ("moves", "stack"),
    [
        ("", []),
        ("+1 +2 +3", ["1", "2", "3"]),
        ("+1 +2 +3 -2", ["1", "2"]),
        ("+1 +2 +3 -2 -1", ["1"]),
        ("+1 +2 -1 +3", ["1", "3"]),
        ("+1 +2 -1 +2", ["1", "2"]),
        ("+2 -1", ["2", "1"]),
        ("+1 +1 +2", ["1", "2"]),
    ],
)
def test_a_rollback_takes_off_what_was_wrong_and_never_goes_forward(moves: str, stack: list[str]) -> None:
    actions = {"+": "promote", "-": "rollback"}
    assert stack_champions([{"version": m[1], "action": actions[m[0]]} for m in moves.split()]) == stack


def test_two_rollbacks_go_back_two_releases_and_a_third_has_nowhere_to_go(three: Registry, tmp_path: Path) -> None:
    moves = [roll_back(tmp_path, to=None, reason="wrong hits", now=NOW) for _ in range(2)]
    assert [(move.before, move.version, move.table) for move in moves] == [
        ("3", "2", "release_v2"),
        ("2", "1", "release_v1"),
    ]
    assert three.get_champion().version == "1"
    with pytest.raises(
        ReleaseError, match=r"No release was live before release 1; `releases promote` takes another, of 2, 3\."
    ):
        roll_back(tmp_path, to=None, reason="wrong hits", now=NOW)
    log = [(entry["action"], entry["version"], entry["why"]) for entry in three.read_log()[3:]]
    assert log == [("rollback", "2", "wrong hits"), ("rollback", "1", "wrong hits")]


def test_where_there_is_one_release_a_rollback_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry = make_registry(tmp_path)
    registry.promote(make_release(tmp_path, fingerprint="a"), reason="the first", now=NOW)
    with pytest.raises(ReleaseError, match=r"release 1; `cbir-ops retrain` makes another\."):
        roll_back(tmp_path, to=None, reason="wrong hits", now=NOW)


def test_the_move_takes_less_than_a_second(three: Registry, tmp_path: Path) -> None:
    assert roll_back(tmp_path, to=None, reason="wrong hits", now=NOW).seconds < 1.0


def test_a_rollback_to_what_was_never_live_asks_the_gate(three: Registry, tmp_path: Path) -> None:
    release = make_release(tmp_path, fingerprint="d")
    with pytest.raises(ReleaseError, match="The gate has not decided on release 4"):
        roll_back(tmp_path, to="4", reason="wrong hits", now=NOW)
    assert (release.version, three.get_champion().version) == ("4", "3")


def test_a_rollback_to_a_release_without_its_table_is_refused_and_changes_nothing(
    three: Registry, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "lancedb" / "release_v2.lance")
    with pytest.raises(IndexError_, match=r"table release_v2 is missing.*releases list"):
        roll_back(tmp_path, to=None, reason="wrong hits", now=NOW)
    assert (three.get_champion().version, len(three.read_log())) == ("3", 3)


def test_a_rollback_to_a_table_of_another_encoder_is_refused(three: Registry, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "lancedb" / "release_v2.lance")
    shutil.copytree(tmp_path / "lancedb" / "release_v1.lance", tmp_path / "lancedb" / "release_v2.lance")
    with pytest.raises(IndexError_, match="4 rows of encoder a, not 4 of b"):
        roll_back(tmp_path, to="2", reason="wrong hits", now=NOW)


def test_a_rollback_to_a_table_that_lost_rows_is_refused(three: Registry, tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.set_model_version_tag("cbir", "2", "rows", "5")
    with pytest.raises(IndexError_, match="has 4 rows of encoder b, not 5"):
        roll_back(tmp_path, to="2", reason="wrong hits", now=NOW)


def test_an_alias_that_was_moved_by_hand_is_not_guessed_about(three: Registry, tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.set_registered_model_alias("cbir", "champion", "2")
    with pytest.raises(ReleaseError, match=r"the history ends with release 3.*--to"):
        roll_back(tmp_path, to=None, reason="wrong hits", now=NOW)
    assert roll_back(tmp_path, to="2", reason="finish", now=NOW).version == "2"
    assert find_previous(three) == "1"


@pytest.mark.parametrize("to", [None, "1"])
def test_a_move_without_a_reason_is_refused(three: Registry, tmp_path: Path, to: str | None) -> None:
    with pytest.raises(ReleaseError, match="--reason"):
        roll_back(tmp_path, to=to, reason=" ", now=NOW)
    with pytest.raises(ReleaseError, match="--reason"):
        promote_release(tmp_path, version="1", reason="", now=NOW)


def test_an_unknown_release_is_named_with_those_that_are_there(three: Registry, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no release 9 in the registry; there are: 1, 2, 3"):
        roll_back(tmp_path, to="9", reason="wrong hits", now=NOW)


def test_a_person_cannot_promote_what_the_gate_refused_nor_what_cannot_be_loaded(
    three: Registry, tmp_path: Path
) -> None:
    three.record_gate(three.get_version("2"), [], tags={"verdict": "fail", "champion": "1", "reasons": "superior"})
    faults: list[tuple[str, type[CbirError], str]] = [
        ("2", ReleaseError, "gate --override --release 2"),
        ("1", TowerError, "another version of cbir-ops|holds no encoder|is missing"),
    ]
    for version, fault, words in faults:
        with pytest.raises(fault, match=words):
            promote_release(tmp_path, version=version, reason="it is fine", now=NOW)
    assert three.get_champion().version == "3"


def write_wordless(folder: Path) -> Path:
    """An encoder that was trained on pictures without captions or labels."""
    config = write_encoder(folder, name="wordless") / "encoder.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"words": 0}))
    return folder


@pytest.mark.parametrize("verdict", ["pass", "fail"])
def test_a_release_that_reads_no_words_can_be_promoted_and_overridden(
    three: Registry, tmp_path: Path, verdict: str
) -> None:
    release = make_release(tmp_path, fingerprint=Encoder.load(write_wordless(tmp_path / "wordless")).fingerprint)
    write_wordless(three.download_encoder(release))
    three.record_gate(release, [], tags={"verdict": verdict, "champion": "3", "reasons": "superior"})
    if verdict == "pass":
        promote_release(tmp_path, version="4", reason="pictures are enough", now=NOW)
    else:
        promote_against_gate(tmp_path, version="4", by="Ada", reason="pictures are enough")
    assert three.get_champion() == release


def test_entries_of_before_there_were_actions_count_as_promotions(three: Registry, tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.set_registered_model_tag("cbir", "history.000000", '{"version": "3", "at": "x", "by": "y", "why": "z"}')
    first = three.read_history()[0]
    assert (first["version"], first["action"]) == ("3", "promote")
    assert find_previous(three) == "2"


def test_pins_are_in_the_log_and_not_among_what_was_live(three: Registry) -> None:
    release = three.get_version("1")
    three.append_log(release, action="pin", reason="for the audit", now=NOW + timedelta(hours=1))
    assert [entry["version"] for entry in three.read_history()] == ["1", "2", "3"]
    assert three.read_log()[3]["at"] == "2026-01-02T01:00:00+00:00"


@pytest.mark.slow
def test_the_flow_rolls_back_and_leaves_the_history_in_prefect(
    three: Registry, tmp_path: Path, prefect_server: str
) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        summary = rollback(str(tmp_path), reason="wrong hits")
        with get_client(sync_client=True) as client:
            kept = [artifact for artifact in client.read_artifacts() if artifact.key == "rollback"]
    assert (summary["before"], summary["version"]) == ("3", "2")
    assert three.get_champion().version == "2"
    assert kept[-1].description == "release 2 is live: wrong hits"
