"""Releases live in an MLflow server as they do in a file: a real one, on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, wait_for_server
from small_releases import IDS, NOW, make_release

from cbir.promotion import roll_back
from cbir.registry import Registry


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """URL of a server with a database and a folder of artifacts of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder = tmp_path / "server"
    folder.mkdir()
    start = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder)]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    log = folder / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [*start, *stores], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder
        )
    try:
        wait_for_server(f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def refuse(*_: object, **__: object) -> None:
    pytest.fail("the encoder lies here already")


@pytest.mark.slow
def test_a_release_is_registered_promoted_and_rolled_back_through_a_server(
    mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.delenv("CBIR_INDEX_URI", raising=False)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    (workspace / "params.yaml").write_text("release: {name: cbir}")
    first = make_release(workspace, fingerprint="f")
    registry = Registry(workspace, name="cbir")
    registry.promote(first, reason="passed the gate", now=NOW)
    second = make_release(workspace, fingerprint="g", average_precision=dict.fromkeys(IDS, 0.9))
    assert make_release(workspace, fingerprint="g").version == second.version
    registry.promote(second, reason="passed the gate", now=NOW)

    assert registry.get_champion() == second
    assert registry.read_metrics(second)["label.fused_both.map"] == pytest.approx(0.9)
    assert (registry.download_encoder(second) / "encoder.json").read_text().count("4") == 1
    before = set(Path(tempfile.gettempdir()).iterdir())
    assert registry.download_encoder(second).is_relative_to(workspace / ".cbir/downloads")
    monkeypatch.setattr("mlflow.store.artifact.http_artifact_repo.HttpArtifactRepository.download_artifacts", refuse)
    assert (registry.download_encoder(second) / "encoder.json").exists(), "downloaded twice"
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    assert "task" in registry.fetch_evidence(first, "per_query.parquet").read_bytes().decode("latin1")
    new = set(Path(tempfile.gettempdir()).iterdir()) - before
    assert not [path for path in new if list(path.rglob("per_query.parquet"))], "a download was left behind"
    assert roll_back(workspace, to=None, reason="worse for us", now=NOW).version == first.version
    assert registry.get_champion() == first
    assert [entry["action"] for entry in registry.read_log()] == ["promote", "promote", "rollback"]
    assert not (workspace / "mlflow.db").exists()


@pytest.mark.slow
def test_registering_at_a_server_prints_nothing_between_the_lines_of_json(mlflow_server: str, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text("release: {name: cbir}")
    code = (
        "import cbir.cli, sys, pathlib; cbir.cli.set_defaults(cbir.cli.QUIET); sys.path.insert(0, sys.argv[1]);"
        "from small_releases import make_release; make_release(pathlib.Path('.'), fingerprint='f')"
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": mlflow_server, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "tests")], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
