"""The command's own options; what its commands do is tested with what they call."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import pytest
from typer.testing import CliRunner

from cbir.cli import app


def test_the_version_is_the_one_installed() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"cbir-ops {metadata.version('cbir-ops')}\n")


@pytest.mark.parametrize(
    "says", [command.callback for command in app.registered_commands], ids=lambda one: one.__name__
)
def test_every_command_says_what_it_does(says: Callable[..., None]) -> None:
    done = CliRunner().invoke(app, [says.__name__, "--help"])
    assert done.exit_code == 0
    assert " ".join(says.__doc__.split()) in " ".join(done.output.split())
