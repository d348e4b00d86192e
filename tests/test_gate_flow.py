"""What a user sees of the gate: a release is refused, explained, refused again in no time, and promoted by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from conftest import cbir, set_param
from mlflow.tracking import MlflowClient
from small_releases import forget_history

from cbir.contest import SCORES_SCHEMA, Contestant
from cbir.errors import ReleaseError
from cbir.registry import Registry
from cbir.registry.release import DIMENSIONS
from cbir.workspace import locate_index
from flows.gate import check_release, compare_champion, decide_release, make_gate_key
from flows.standing import find_current, find_standing

WHO = ("--by", "Ada", "--reason", "the new pictures must go live")


@pytest.mark.slow
def test_an_equal_release_is_refused_once_explained_and_promoted_by_a_person(live: Path, prefect_server: str) -> None:
    set_param(live, "gate", require="superiority", improve=["label.fused_both.map"])
    set_param(live, "train", seed=1)
    registry = Registry(live, name="cbir")

    done = cbir(live, "retrain", PREFECT_API_URL=prefect_server)
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["outcome"]) == (3, "refused"), done.stderr
    assert (summary["version"], summary["candidate"], summary["reasons"]) == ("1", "2", "superior")
    assert "`cbir-ops gate --explain --release 2`" in done.stderr
    assert registry.get_champion().version == "1"

    again = cbir(live, "retrain", PREFECT_API_URL=prefect_server)
    assert (again.returncode, json.loads(again.stdout)) == (3, summary)
    assert not [words for words in ("Running stage", "register the release", "decide") if words in again.stderr]
    assert len(lancedb.connect(locate_index(live)).list_tables().tables) == 2

    told = cbir(live, "gate", "--explain")
    assert told.stdout.startswith("Release 2 against release 1: refused"), told.stderr
    assert "FAIL  superior" in told.stdout
    document = json.loads(cbir(live, "gate", "--explain", "--release", "2", "--json").stdout)
    assert {"verdict": "fail", "release": "2", "champion": "1"}.items() <= document.items()
    assert registry.fetch_evidence(registry.get_version("2"), "scores.parquet").exists()

    nameless = cbir(live, "gate", "--override", "--release", "2", "--by", "Ada")
    assert (nameless.returncode, "needs a release, a name and a reason" in nameless.stderr) == (2, True)
    assert registry.get_champion().version == "1"
    done = cbir(live, "gate", "--override", "--release", "2", *WHO)
    assert done.stdout == "Release 2 is live, by Ada.\n", done.stderr
    entry = registry.read_history()[-1]
    assert (entry["version"], entry["by"]) == ("2", "Ada")
    assert entry["why"] == "override of fail (superior): the new pictures must go live"
    assert entry["action"] == "override"
    assert registry.find_challenger() is None

    live_now = find_current(live)
    assert live_now is not None
    assert live_now.version == "2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("--override", "--release", "1", *WHO), "is live already"),
        (("--override", "--release", "9", *WHO), "there are: 1"),
        (("--explain", "--release", "9"), "there are: 1"),
    ],
)
def test_a_gate_command_that_cannot_be_names_the_remedy(live: Path, arguments: tuple[str, ...], remedy: str) -> None:
    done = cbir(live, "gate", *arguments)
    assert (done.returncode, remedy in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


@pytest.fixture
def registry(live: Path) -> Registry:
    return Registry(live, name="cbir")


def spoil_encoder(artifacts: Path) -> None:
    for path in artifacts.rglob("fusion.*"):
        path.unlink()  # it may be a link
        path.write_bytes(b"not weights")


def swap_encoder(artifacts: Path) -> None:
    """Files that load, but are not those that were registered."""
    for path in artifacts.rglob("encoder.json"):
        path.write_text(path.read_text() + "\n")


def lose_split(artifacts: Path) -> None:
    for path in artifacts.rglob("split.parquet"):
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [spoil_encoder, swap_encoder, lose_split, shutil.rmtree])
def test_a_champion_that_cannot_be_read_is_a_verdict_and_no_crash(
    live: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    said: list[str] = []
    logger = type("Logger", (), {"warning": lambda self, text, *values: said.append(text % values)})()
    monkeypatch.setattr("flows.gate.get_run_logger", lambda: logger)
    spoil(live / "mlartifacts")
    folder = Path(compare_champion.fn(str(live), registry.get_champion().key))
    contest = json.loads((folder / "contest.json").read_text())
    assert (contest["champion"], contest["version"], bool(contest["fault"])) == ("unreadable", "1", True)
    assert [words.startswith("champion 1: ") for words in said] == [True]


@pytest.mark.slow
def test_champion_and_challenger_answer_with_as_many_dimensions_as_each_is_searched_by(
    live: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def hold(champion: Contestant, challenger: Contestant, **_: Any) -> tuple[pa.Table, dict[str, Any]]:
        seen.append((champion.encoder.dimensions, challenger.encoder.dimensions))
        return pa.Table.from_pylist([], schema=SCORES_SCHEMA), {"test_items": 0, "fresh_items": 0, "golden": None}

    monkeypatch.setattr("flows.gate.hold_contest", hold)
    whole = registry.get_champion()
    compare_champion.fn(str(live), whole.key)
    assert whole.dimensions == seen[0][0] == seen[0][1]
    MlflowClient(f"sqlite:///{live / 'mlflow.db'}").set_model_version_tag("cbir", whole.version, DIMENSIONS, "16")
    compare_champion.fn(str(live), whole.key)
    assert seen[1] == (16, 16)


@pytest.mark.slow
def test_a_release_is_not_decided_on_against_another_champion_than_it_met(live: Path, registry: Registry) -> None:
    key = registry.get_champion().key
    folder = Path(compare_champion.fn(str(live), key))
    check_release.fn(str(live), key)
    contest = json.loads((folder / "contest.json").read_text())
    (folder / "contest.json").write_text(json.dumps(contest | {"version": "7"}))  # 1 was promoted after the contest
    with pytest.raises(ReleaseError, match="compared with release 7, but release 1 is live now; run"):
        decide_release.fn(str(live), key)
    (folder / "contest.json").write_text(json.dumps(contest))
    assert decide_release.fn(str(live), key) == "pass"


@pytest.mark.slow
def test_a_champion_that_the_registry_lost_is_no_first_release(live: Path) -> None:
    key = Registry(live, name="cbir").get_champion().key
    forget_champion(live)
    folder = Path(compare_champion.fn(str(live), key))
    assert json.loads((folder / "contest.json").read_text())["champion"] == "lost"


def forget_champion(live: Path) -> None:
    MlflowClient(f"sqlite:///{live / 'mlflow.db'}").delete_registered_model_alias("cbir", "champion")


def lower_floor(live: Path) -> None:
    set_param(live, "gate", floor={})


def change_figures(live: Path) -> None:
    (live / "metrics.json").write_text("{}")


def answer_slowly(live: Path) -> None:
    MlflowClient(f"sqlite:///{live / 'mlflow.db'}").set_model_version_tag("cbir", "1", "gate.again", "True")


def forget_key(live: Path) -> None:
    """As a run that an earlier version killed left it."""
    MlflowClient(f"sqlite:///{live / 'mlflow.db'}").delete_model_version_tag("cbir", "1", "gate.key")


def decide_again(live: Path) -> None:
    """And be killed before the model card."""
    registry = Registry(live, name="cbir")
    release = registry.get_version("1")
    registry.record_gate(release, [], tags=registry.read_gate_tags(release))


@pytest.mark.slow
@pytest.mark.parametrize("change", [lower_floor, change_figures, answer_slowly, forget_key, decide_again])
def test_a_refusal_stands_until_the_rules_the_figures_the_machine_or_the_decision_changes(
    live: Path, change: Callable[[Path], None]
) -> None:
    forget_champion(live)
    forget_history(live)
    registry = Registry(live, name="cbir")
    tags = {"verdict": "fail", "champion": "none", "reasons": "superior", "again": "False"}
    tags["key"] = make_gate_key(live, None)
    registry.record_gate(registry.get_version("1"), [], tags=tags)
    assert find_standing(live) is None
    registry.log_card(registry.get_version("1"), [], description="refused")
    assert find_standing(live) == {"outcome": "refused", "candidate": "1", "reasons": "superior"}
    change(live)
    assert find_standing(live) is None
