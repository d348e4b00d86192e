"""What an operator does with releases, by the commands, on a workspace with two of them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, cbir, copy_workspace, set_param
from small_releases import make_registry, make_release

from cbir.git import git
from cbir.releases import compare_releases


@pytest.fixture(scope="module")
def twice(released: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Path:
    """Release 1, made from files that were not committed; release 2, that was, and three commits after it."""
    workspace = copy_workspace(released, tmp_path_factory.mktemp("twice") / "workspace")
    shutil.copy(ROOT / ".gitignore", workspace)
    git(workspace, "config", "user.name", "Test")
    git(workspace, "config", "user.email", "test@localhost")
    set_param(workspace, "release", commit=True)
    set_param(workspace, "train", seed=1)
    git(workspace, "add", ".")
    git(workspace, "commit", "--quiet", "--message", "Start")
    (workspace / "notes.txt").write_text("mine")
    git(workspace, "add", "notes.txt")
    done = cbir(workspace, "retrain", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout + done.stderr
    for number in range(3):
        set_param(workspace, "train", seed=2 + number)
        git(workspace, "commit", "--quiet", "--all", "--message", f"Try seed {2 + number}")
    return workspace


def ask(workspace: Path, *arguments: str) -> Any:
    done = cbir(workspace, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_retrain_commits_its_pointers_and_nothing_that_the_user_has_staged(twice: Path) -> None:
    log = git(twice, "log", "--format=%s", "--name-only", "-1", "HEAD~3").splitlines()
    assert log[0].startswith("Retrain: pointers and figures of 48 rows, data ")
    assert {"dvc.lock", "metrics.json"} == set(log[2:])


@pytest.mark.slow
def test_releases_are_listed_shown_and_compared(twice: Path) -> None:
    second, first = ask(twice, "releases", "list")
    commit = git(twice, "rev-parse", "HEAD~3")
    assert (second["version"], second["aliases"], second["rows"], second["table"]) == (
        "2",
        ["champion"],
        48,
        "release_v2",
    )
    assert (second["git_commit"], second["git_dirty"], first["git_dirty"]) == (commit, False, True)
    shown = ask(twice, "releases", "show")
    assert (shown["version"], [entry["action"] for entry in shown["history"]]) == ("2", ["promote"])
    changed = ask(twice, "releases", "diff", "1", "2")
    assert changed["params"] == {"release.commit": [False, True], "train.seed": [0, 1]}
    assert changed["metrics"]["counts.items"] == [48, 48]
    for command in (["list"], ["show", "1"], ["diff", "1", "2"], ["log"]):
        printed = cbir(twice, "releases", *command)
        assert (printed.returncode, printed.stderr) == (0, ""), printed.stderr


def test_values_of_the_users_own_beside_the_sections_are_compared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_registry(tmp_path)
    for name, owner in (("a", "shop"), ("b", "store")):
        (tmp_path / "params.yaml").write_text(f"owner: {owner}\nsplit:\ntrain: {{seed: 1}}\n")
        make_release(tmp_path, fingerprint=name)
    assert compare_releases(tmp_path, "1", "2")["params"] == {"owner": ("shop", "store")}


@pytest.mark.slow
def test_a_rollback_brings_back_the_answers_of_before(twice: Path) -> None:
    question = ("query", "a red square", "-k", "5")
    of_second = ask(twice, *question)
    move = ask(twice, "releases", "rollback", "--reason", "wrong hits")
    of_first = ask(twice, *question)
    assert (move["before"], move["version"], move["table"]) == ("2", "1", "release_v1")
    assert move["seconds"] < 1.0
    assert of_first != of_second
    ask(twice, "releases", "promote", "2", "--reason", "they were right")
    assert ask(twice, *question) == of_second
    assert [entry["action"] for entry in ask(twice, "releases", "log")] == ["promote", "promote", "rollback", "promote"]


@pytest.mark.slow
def test_a_hit_is_traced_to_its_file_even_where_the_workspace_has_moved_on(twice: Path) -> None:
    hit = ask(twice, "query", "a red square", "-k", "1")[0]
    held = {name: shutil.move(twice / "data" / name, twice / f"{name}.moved") for name in ("ingested", "split")}
    try:
        found = ask(twice, "lineage", hit["id"])
    finally:
        for name, moved in held.items():
            shutil.move(moved, twice / "data" / name)
    file = twice / found["source"]["file"]
    assert found["source"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (found["source"]["now"], found["index"]["table"]) == ("unchanged", "release_v2")
    assert found["release"]["git_commit"] == git(twice, "rev-parse", "HEAD~3")
    assert found["ingested"]["original_captions"] == [hit["caption"]]
    assert found["validation"]["success"] is True
    assert found["split"]["split"] in ("train", "validation", "test")
    unknown = cbir(twice, "lineage", "squares/nope")
    assert (unknown.returncode, "No item 'squares/nope'" in unknown.stderr) == (2, True)


@pytest.mark.slow
def test_a_release_of_three_commits_ago_can_be_made_again_and_a_dirty_one_is_refused(twice: Path) -> None:
    status = git(twice, "status", "--porcelain")
    verified = cbir(twice, "repro", "--verify", "2", "--json")
    assert verified.returncode == 0, verified.stderr
    document = json.loads(verified.stdout)
    assert {row["stage"] for row in document["rows"]} == {
        "ingest",
        "validate",
        "split",
        "train",
        "embed",
        "evaluate",
    }
    assert document["holds"] is True
    assert "Running stage 'train'" in verified.stderr
    assert git(twice, "status", "--porcelain") == status
    refused = cbir(twice, "repro", "--verify", "1")
    assert (refused.returncode, "made from files that are not committed" in refused.stderr) == (2, True)
