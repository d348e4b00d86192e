"""People hear of a run through a notification block: a real one here, that posts to a server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import cbir, set_param
from inbox import BLOCK, Inbox, open_inbox
from prefect import flow
from prefect.blocks.system import Secret
from small_releases import NOW, make_registry, make_release

from cbir.errors import ParamsError
from cbir.registry import NOTHING, Registry
from flows.notices import describe_live, describe_outcome, load_block, name_live, tell_outcome
from flows.retrain import retrain

REFUSED = {"outcome": "refused", "version": "3", "candidate": "4", "rows": 48, "reasons": "label mAP fell by 4 points"}


@pytest.fixture
def inbox(prefect_server: str) -> Iterator[Inbox]:
    with open_inbox(prefect_server) as inbox:
        yield inbox


@flow
def tell(workspace: str, summary: dict[str, Any]) -> None:
    tell_outcome(workspace, summary)


@pytest.mark.parametrize(
    ("summary", "subject", "said"),
    [
        ({"outcome": "promoted", "version": "4", "rows": 48}, "shop: release 4 is live", "48 items"),
        (
            REFUSED,
            "shop: release 4 is refused",
            "so release 3 stays live.\nlabel mAP fell by 4 points\ncbir-ops gate --explain --release 4 ",
        ),
        (REFUSED | {"outcome": "inconclusive", "version": None}, "shop: release 4 is inconclusive", "nothing is live"),
        (
            {"outcome": "kept", "version": "3", "candidate": "4", "rows": 48},
            "shop: release 3 stays live",
            "was live before",
        ),
    ],
)
def test_a_message_says_what_is_live_and_why(summary: dict[str, Any], subject: str, said: str) -> None:
    assert describe_outcome("shop", summary)[0] == subject
    assert said in describe_outcome("shop", summary)[1]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Release 1, that passed the gate and went live, and of which nobody was told yet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry = make_registry(tmp_path)
    release = make_release(tmp_path, fingerprint="a")
    registry.record_gate(release, [], tags={"verdict": "pass", "champion": "none"})
    registry.record_told(release, NOTHING)
    registry.promote(release, reason="passed the gate", now=NOW)
    return registry


def want(workspace: Path, *events: str) -> None:
    """People want to hear of these events."""
    (workspace / "params.yaml").write_text(
        f"release: {{name: cbir}}\nnotify: {{block: {BLOCK}, events: [{', '.join(events)}]}}"
    )
    (workspace / "expectations").mkdir(exist_ok=True)
    (workspace / "expectations/items.json").touch()


def leave_nothing_to_do(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any]) -> None:
    """Let nothing have changed since the release was registered, and ``found`` be how it stands."""
    for name, value in (
        ("look_for_changes", []),
        ("push_outputs", False),
        ("commit_data", None),
        ("compare_live", found),
    ):
        monkeypatch.setattr(f"flows.retrain.{name}", lambda *_, value=value: value)


@pytest.mark.slow
def test_an_outcome_is_posted_once_where_it_is_wanted_and_a_hook_that_is_down_fails_nothing(
    inbox: Inbox, registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    want(tmp_path, "refused")
    key = registry.get_champion().key
    tell(str(tmp_path), REFUSED | {"key": key})
    assert [message["subject"] for message in inbox.messages] == [f"{tmp_path.name}: release 4 is refused"]
    assert "label mAP fell by 4 points" in inbox.messages[0]["body"]
    tell(str(tmp_path), {"outcome": "promoted", "version": "4", "rows": 48, "key": key})
    assert len(inbox.messages) == 1
    registry.record_told(registry.get_champion(), NOTHING)
    inbox.status = 500
    tell(str(tmp_path), REFUSED | {"key": key})
    assert "nobody was told" in caplog.text
    assert registry.get_champion().untold


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outcome", "verdict", "subjects"),
    [
        ("unchanged", "pass", ["release 1 is live"]),
        ("refused", "fail", ["release 1 is refused"]),
        ("unchanged", "fail", []),  # a person promoted it
    ],
)
def test_what_a_killed_run_left_untold_is_told_by_the_next_one_and_not_again(
    inbox: Inbox,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: str,
    verdict: str,
    subjects: list[str],
) -> None:
    want(tmp_path, "promoted", "refused")
    release = registry.get_champion()
    registry.record_gate(release, [], tags={"verdict": verdict, "champion": "none"})
    found = REFUSED | {"outcome": outcome, "version": "1", "candidate": "1", "key": release.key}
    leave_nothing_to_do(monkeypatch, found)
    for _ in range(2):
        assert retrain(str(tmp_path)) == found
        assert [message["subject"] for message in inbox.messages] == [f"{tmp_path.name}: {said}" for said in subjects]


@pytest.mark.slow
def test_a_clean_up_that_fails_is_logged_after_the_outcome_was_told_and_fails_no_run(
    inbox: Inbox,
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    want(tmp_path, "promoted", "failed")
    found = {"outcome": "unchanged", "version": "1", "rows": 4, "key": registry.get_champion().key}
    leave_nothing_to_do(monkeypatch, found)
    told: list[int] = []

    def clean_up(*_: Any, **__: Any) -> None:
        told.append(len(inbox.messages))
        raise PermissionError("AccessDenied")

    monkeypatch.setattr("flows.retrain.clean_up", clean_up)
    assert retrain(str(tmp_path)) == found
    assert set(told) == {1}
    assert [message["subject"] for message in inbox.messages] == [f"{tmp_path.name}: release 1 is live"]
    assert "not cleaned up: Task run encountered an exception PermissionError: AccessDenied" in caplog.text


@pytest.mark.slow
def test_a_run_that_fails_is_told_with_its_reason(inbox: Inbox, workspace: Path, prefect_server: str) -> None:
    set_param(workspace, "notify", block=BLOCK)
    done = cbir(workspace, "retrain", PREFECT_API_URL=prefect_server)
    assert done.returncode == 2, done.stderr
    assert [message["subject"] for message in inbox.messages] == ["workspace: retrain failed"]
    assert "data/raw holds no source" in inbox.messages[0]["body"]
    assert "No release is live. Mend the cause" in inbox.messages[0]["body"]
    assert "Traceback" not in inbox.messages[0]["body"]


def test_a_run_that_failed_after_its_promotion_says_what_is_live(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert describe_live(tmp_path) == "Release 1 is live, since 2026-01-02T00:00 UTC."
    registry._client.set_registered_model_alias("cbir", "champion", make_release(tmp_path, fingerprint="b").version)
    assert describe_live(tmp_path) == "Release 2 is live."
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert describe_live(tmp_path).startswith("What is live cannot be read: The registry http://127.0.0.1:9 does not ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "said"),
    [("slack-webhook/none", "prefect block ls"), ("secret/word", "does not notify"), ("team", "such as slack-webhook")],
)
def test_a_block_that_does_not_serve_is_refused(inbox: Inbox, tmp_path: Path, block: str, said: str) -> None:
    Secret(value="x").save("word", overwrite=True)
    (tmp_path / "params.yaml").write_text(f"notify: {{block: {block}}}")
    with pytest.raises(ParamsError, match=f"notify.block: .*{said}"):
        load_block(tmp_path)


@pytest.mark.slow
def test_a_block_that_is_not_there_is_said_before_anything_is_done(workspace: Path, prefect_server: str) -> None:
    set_param(workspace, "notify", block="slack-webhook/none")
    done = cbir(workspace, "retrain", PREFECT_API_URL=prefect_server)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "notify.block" in done.stderr
    assert "data/raw" not in done.stderr


@pytest.mark.slow
def test_a_release_that_was_rolled_back_from_and_is_kept_back_is_told(
    inbox: Inbox, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want(tmp_path, "kept")
    kept = {"outcome": "kept", "candidate": "4", "version": "3", "rows": 48, "key": registry.get_champion().key}
    leave_nothing_to_do(monkeypatch, kept)
    for runs in (1, 2):
        assert retrain(str(tmp_path)) == kept
        assert [message["body"] for message in inbox.messages] == runs * [
            "Release 4 was live before and comes back only by a person, so release 3 stays live."
        ]


def test_a_first_release_that_is_refused_says_that_none_is_live() -> None:
    assert name_live({"version": None}) == "no release is live"
    assert name_live({"version": "3"}) == "release 3 is live"
