"""Where the messages of a notification block arrive: a real block, that posts to a server on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.settings import PREFECT_API_URL, temporary_settings

BLOCK = "custom-webhook/team"


class Inbox(HTTPServer):
    """What was posted here; ``status`` is how it answers."""

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


@contextmanager
def open_inbox(prefect_server: str) -> Iterator[Inbox]:
    """A web hook that answers, and a block in Prefect, where ``notify.block`` finds it, that posts to it."""
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
