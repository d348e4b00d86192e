"""People hear of a run through a notification block: a real one here, that posts to a server on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import cbir, set_param
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, temporary_settings

from cbir.errors import ParamsError
from flows.notices import describe_outcome, load_block, name_live, tell_outcome
from flows.retrain import retrain

BLOCK = "custom-webhook/team"
REFUSED = {"outcome": "refused", "version": "3", "candidate": "4", "rows": 48, "reasons": "label mAP fell by 4 points"}


class Inbox(HTTPServer):
    """What was posted here."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.messages: list[dict[str, str]] = []
        self.status = 200


class Receiver(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        self.server.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def inbox(prefect_server: str) -> Iterator[Inbox]:
    """A web hook that answers, and a block in Prefect that posts to it."""
    with Inbox() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: prefect_server}):
            CustomWebhookNotificationBlock(
                name="team",
                url=f"http://127.0.0.1:{server.server_port}",
                json_data={"subject": "{{subject}}", "body": "{{body}}"},
            ).save("team", overwrite=True)
            yield server
        server.shutdown()


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


@pytest.mark.slow
def test_an_outcome_is_posted_once_where_it_is_wanted_and_a_hook_that_is_down_fails_nothing(
    inbox: Inbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "params.yaml").write_text(f"notify: {{block: {BLOCK}, events: [refused]}}")
    tell(str(tmp_path), REFUSED)
    assert [message["subject"] for message in inbox.messages] == [f"{tmp_path.name}: release 4 is refused"]
    assert "label mAP fell by 4 points" in inbox.messages[0]["body"]
    tell(str(tmp_path), {"outcome": "promoted", "version": "4", "rows": 48})
    assert len(inbox.messages) == 1
    inbox.status = 500
    tell(str(tmp_path), REFUSED)
    assert "nobody was told" in caplog.text


@pytest.mark.slow
def test_a_run_that_fails_is_told_with_its_reason(inbox: Inbox, workspace: Path, prefect_server: str) -> None:
    set_param(workspace, "notify", block=BLOCK)
    done = cbir(workspace, "retrain", PREFECT_API_URL=prefect_server)
    assert done.returncode == 2, done.stderr
    assert [message["subject"] for message in inbox.messages] == ["workspace: retrain failed"]
    assert "data/raw holds no source" in inbox.messages[0]["body"]
    assert "Traceback" not in inbox.messages[0]["body"]


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
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever comes before it is left out: nothing changed, and the gate is not asked again."""
    (tmp_path / "params.yaml").write_text(f"notify: {{block: {BLOCK}, events: [kept]}}")
    (tmp_path / "expectations").mkdir()
    (tmp_path / "expectations/items.json").touch()
    kept = {"outcome": "kept", "candidate": "4", "version": "3", "rows": 48, "key": "k"}
    for name, found in (
        ("look_for_changes", []),
        ("push_outputs", False),
        ("commit_data", None),
        ("compare_live", kept),
    ):
        monkeypatch.setattr(f"flows.retrain.{name}", lambda *_, found=found: found)
    assert retrain(str(tmp_path)) == kept
    assert [message["body"] for message in inbox.messages] == [
        "Release 4 was live before and comes back only by a person, so release 3 stays live."
    ]


def test_a_first_release_that_is_refused_says_that_none_is_live() -> None:
    assert name_live({"version": None}) == "no release is live"
    assert name_live({"version": "3"}) == "release 3 is live"
