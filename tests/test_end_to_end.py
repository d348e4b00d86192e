"""From a folder of pictures to answers, with every real part: DVC, Great Expectations, Prefect, MLflow, LanceDB."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace as a clone has it, with few epochs and low floors."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    for name in ("cbir", "flows", "expectations"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "dvc.yaml", folder)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["train"] |= {"epochs": 2, "batch_size": 16}
    params["split"] |= {"phash_distance": 0}
    params["release"]["floor"] = {"label.fused_both.map": 0.0}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    return folder


def cbir(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    command = [sys.executable, "-c", "from cbir.cli import main; main()", *arguments]
    environment = os.environ | {"PYTHONPATH": str(workspace)}
    return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_folder_becomes_a_live_release_that_answers(workspace: Path, catalogue: Path) -> None:
    imported = cbir(workspace, "data", "import", str(catalogue), "--name", "squares")
    assert imported.stdout == "squares: 48 added, 0 unchanged, 0 left out\n", imported.stderr

    first = cbir(workspace, "retrain")
    assert first.returncode == 0, first.stdout + first.stderr
    assert json.loads(first.stdout.splitlines()[-1])["rows"] == 48

    hits = json.loads(cbir(workspace, "query", "a red square", "-k", "5", "--where", "label = 'red'", "--json").stdout)
    assert [hit["label"] for hit in hits] == ["red"] * 5
    picture = workspace / "data" / "raw" / "squares" / hits[0]["source_path"].split("/", 1)[1]
    same = json.loads(cbir(workspace, "query", "--image", str(picture), "-k", "3", "--json").stdout)
    assert {hit["label"] for hit in same} == {"red"}

    wrong = cbir(workspace, "query", "a square", "--where", "colour = 'red'")
    assert (wrong.returncode, "columns:" in wrong.stderr, "Traceback" in wrong.stderr) == (2, True, False)

    again = cbir(workspace, "retrain")
    assert json.loads(again.stdout.splitlines()[-1]) == json.loads(first.stdout.splitlines()[-1])
