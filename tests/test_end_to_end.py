"""From a folder of pictures to answers, with every real part: DVC, Great Expectations, Prefect, MLflow, LanceDB."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import cbir


@pytest.mark.slow
def test_a_folder_becomes_a_live_release_that_answers(workspace: Path, catalogue: Path) -> None:
    imported = cbir(workspace, "data", "import", str(catalogue), "--name", "squares")
    assert imported.stdout == "squares: 48 added, 0 unchanged, 0 left out\n", imported.stderr

    first = cbir(workspace, "retrain")
    assert first.returncode == 0, first.stdout + first.stderr
    summary = json.loads(first.stdout)
    assert (summary["outcome"], summary["rows"]) == ("promoted", 48)

    hits = json.loads(cbir(workspace, "query", "a red square", "-k", "5", "--where", "label = 'red'", "--json").stdout)
    assert [hit["label"] for hit in hits] == ["red"] * 5
    picture = workspace / "data" / "raw" / "squares" / hits[0]["source_path"].split("/", 1)[1]
    same = json.loads(cbir(workspace, "query", "--image", str(picture), "-k", "3", "--json").stdout)
    assert {hit["label"] for hit in same} == {"red"}

    wrong = cbir(workspace, "query", "a square", "--where", "colour = 'red'")
    assert (wrong.returncode, "columns:" in wrong.stderr, "Traceback" in wrong.stderr) == (2, True, False)

    again = cbir(workspace, "retrain")
    assert json.loads(again.stdout) == summary | {"outcome": "unchanged"}
