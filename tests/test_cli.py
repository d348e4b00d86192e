"""The command's own options; what its commands do is tested with what they call."""

from __future__ import annotations

from importlib import metadata

import pytest
from typer.testing import CliRunner

from cbir.cli import app


def test_the_version_is_the_one_installed() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"cbir-ops {metadata.version('cbir-ops')}\n")


@pytest.mark.parametrize("command", [command.name or command.callback.__name__ for command in app.registered_commands])
def test_every_command_says_what_it_does(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"])
    assert done.exit_code == 0
    assert f" {command} " in done.output.splitlines()[1]
