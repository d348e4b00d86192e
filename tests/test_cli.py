"""The command's own options; what its commands do is tested with what they call."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from conftest import cbir
from small_releases import NOW, make_registry, make_release
from typer.testing import CliRunner

from cbir.cli import app, main
from cbir.errors import WorkspaceError
from cbir.registry import Registry
from flows.home import OWNER, choose_home, end_orphans


def test_the_version_is_the_one_installed() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"cbir-ops {metadata.version('cbir-ops')}\n")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EROFS, "that you may write to"),
        (errno.EACCES, "let yourself read and write"),
    ],
)
def test_a_disk_that_takes_nothing_is_one_message_with_its_remedy(
    number: int, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "data/raw/new")

    monkeypatch.setattr("cbir.cli.app", fail)
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    assert said.startswith(f"error: data/raw/new: {os.strerror(number)}; ")
    assert remedy in said


def test_any_other_fault_of_the_system_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("cbir.cli.app", fail)
    with pytest.raises(OSError, match="Input/output"):
        main()


@pytest.mark.parametrize(
    "says", [command.callback for command in app.registered_commands], ids=lambda one: one.__name__
)
def test_every_command_says_what_it_does(says: Callable[..., None]) -> None:
    done = CliRunner().invoke(app, [says.__name__, "--help"])
    assert done.exit_code == 0
    assert " ".join(says.__doc__.split()) in " ".join(done.output.split())


@pytest.fixture(autouse=True)
def _forget_what_commands_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "")  # so that it is put back afterwards
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Releases 1 and 2 in the folder that commands run in; 1 is live."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    registry = make_registry(tmp_path)
    first, second = (make_release(tmp_path, fingerprint=name) for name in "ab")
    registry.promote(first, reason="the first", now=NOW)
    registry.name_challenger(second)
    return registry


def test_an_alias_stands_for_a_release_in_every_command(two: Registry) -> None:
    assert run("releases", "pin", "champion") == (0, "Release 1 is pinned.")
    assert run("releases", "unpin", "champion") == (0, "Release 1 is no longer pinned.")
    assert run("releases", "rollback", "--to", "challenger", "--reason", "for once")[0] != 0  # it was never live
    assert two.get_champion().version == "1"
    two.promote(two.get_version("challenger"), reason="a person's account", now=NOW)
    two.name_challenger(two.get_version("1"))
    code, said = run("releases", "rollback", "--to", "challenger", "--reason", "for once")
    assert (code, said.startswith("Release 1 is live with table release_v1, after release 2")) == (0, True)


def test_what_is_live_already_is_said_to_be_and_nothing_is_written_down(two: Registry) -> None:
    assert run("releases", "rollback", "--to", "1", "--reason", "again") == (0, "Release 1 is live already.")
    assert len(two.read_log()) == 1


@pytest.mark.parametrize("command", [("promote", "9"), ("rollback",)])
def test_a_move_asks_for_its_reason_and_help_says_so(two: Registry, command: tuple[str, ...]) -> None:
    code, said = run("releases", *command)
    assert (code, "Missing option '--reason'" in said) == (2, True)
    assert "[required]" in run("releases", command[0], "--help")[1]


def test_to_explain_takes_no_name(two: Registry) -> None:
    code, said = run("gate", "--explain", "--by", "Ada")
    assert (code, "belong to --override" in said) == (2, True)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.output.strip()


@pytest.mark.slow
def test_a_registry_that_is_down_is_named_within_seconds(workspace: Path) -> None:
    start = time.monotonic()
    done = cbir(workspace, "releases", "list", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert (done.returncode, "The registry http://127.0.0.1:9 does not answer" in done.stderr) == (2, True), done.stderr
    assert time.monotonic() - start < 60  # on a busy machine; it was four minutes


@pytest.mark.parametrize("command", ["retrain", "refresh", "demo"])
def test_what_writes_says_at_once_that_it_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests' own user may be one who may everything
    with pytest.raises(WorkspaceError, match="in a workspace that you may write to"):
        CliRunner().invoke(app, [command], catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.yaml"]


@pytest.mark.slow
def test_a_refresh_of_nothing_that_is_live_says_so_before_prefect_starts(workspace: Path) -> None:
    done = cbir(workspace, "refresh")
    assert (done.returncode, "No release is live" in done.stderr) == (2, True), done.stderr
    assert not (workspace / ".prefect").exists()


@pytest.mark.parametrize(("command", "seconds"), [("query", "15"), ("retrain", None)])
def test_what_uploads_models_waits_as_long_as_mlflow_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, seconds: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, [command]).exit_code == 1  # no workspace
    assert os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") == seconds


@pytest.mark.parametrize(
    ("profiles", "variables", "own"),
    [
        (None, {}, True),
        (None, {"PREFECT_API_URL": "http://x/api"}, False),
        ('active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://x/api"', {}, False),
        ('active = "ephemeral"\n[profiles.team]\nPREFECT_API_URL = "http://x/api"', {}, True),
        (
            'active = "ephemeral"\n[profiles.team]\nPREFECT_API_URL = "http://x/api"',
            {"PREFECT_PROFILE": "team"},
            False,
        ),
        ('active = "local"\n[profiles]', {}, False),
        ("not toml", {}, True),
    ],
)
def test_prefect_keeps_its_record_in_the_workspace_unless_a_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profiles: str | None, variables: dict[str, str], own: bool
) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)} | variables)
    if profiles is not None:
        (tmp_path / ".prefect").mkdir()
        (tmp_path / ".prefect" / "profiles.toml").write_text(profiles)
    choose_home(tmp_path / "workspace")
    assert os.environ.get("PREFECT_HOME") == (str(tmp_path / "workspace/.prefect") if own else None)


@pytest.mark.parametrize("alive", [True, False])
def test_the_server_of_a_killed_run_is_ended_and_that_of_one_that_lives_is_not(tmp_path: Path, alive: bool) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    owner = os.getpid() if alive else gone.pid
    variables = os.environ | {"PREFECT_HOME": str(tmp_path), OWNER: str(owner)}
    server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "prefect.server"], env=variables)
    try:
        assert end_orphans(str(tmp_path / "another")) == []
        assert end_orphans(str(tmp_path)) == ([] if alive else [server.pid])
        assert (server.poll() is None) == alive
    finally:
        server.kill()
        server.wait()
