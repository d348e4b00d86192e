"""A retrain commits its pointers and nothing of the user's, and knows when a commit does not say what was run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbir.errors import GitError
from cbir.git import check_out, commit_pointers, git, read_state

DVC_YAML = """
stages:
  ingest: {cmd: x, deps: [data/raw, code.py, lib], outs: [data/ingested]}
  embed: {cmd: x, deps: [data/ingested, code.py], outs: [data/embedded]}
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A workspace in a repository, all of it committed."""
    files = {
        "dvc.yaml": DVC_YAML,
        "params.yaml": "a: 1",
        "dvc.lock": "1",
        "metrics.json": "1",
        "data/raw.dvc": "1",
        "data/.gitignore": "/raw",
        "code.py": "1",
        "lib/a.py": "1",
        "notes.txt": "1",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "Test")
    git(tmp_path, "config", "user.email", "test@localhost")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Start")
    return tmp_path


def change(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("changed")


def list_status(folder: Path) -> set[str]:
    return set(git(folder, "status", "--porcelain").splitlines())


def test_only_what_a_retrain_writes_is_committed_and_what_is_staged_stays_staged(repository: Path) -> None:
    change(repository, "dvc.lock", "metrics.json", "data/raw.dvc", "code.py", "notes.txt", "new.txt", "params.yaml")
    git(repository, "add", "notes.txt")
    (repository / "data" / "kept.parquet.dvc").write_text("new")
    commit = commit_pointers(repository, message="Retrain: 4 rows")
    assert commit == git(repository, "rev-parse", "HEAD")
    assert git(repository, "log", "-1", "--format=%s", "--name-only").splitlines() == [
        "Retrain: 4 rows",
        "",
        "data/kept.parquet.dvc",
        "data/raw.dvc",
        "dvc.lock",
        "metrics.json",
    ]
    # `git` strips the output, and with it the blank before the first line
    assert list_status(repository) == {"M code.py", "M  notes.txt", " M params.yaml", "?? new.txt"}


def test_where_nothing_changed_there_is_no_commit(repository: Path) -> None:
    change(repository, "code.py", "notes.txt")
    assert commit_pointers(repository, message="x") is None
    assert git(repository, "log", "--format=%s") == "Start"


def test_a_commit_that_git_refuses_says_why(repository: Path) -> None:
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho not on a Friday >&2; exit 1\n")
    hook.chmod(0o755)
    change(repository, "dvc.lock")
    with pytest.raises(GitError, match=r"git commit.*failed.*not on a Friday"):
        commit_pointers(repository, message="x")


@pytest.mark.parametrize(
    "name", ["code.py", "lib/a.py", "lib/new.py", "dvc.yaml", "params.yaml", "dvc.lock", "data/raw.dvc", "metrics.json"]
)
def test_a_changed_file_of_the_pipeline_makes_it_dirty(repository: Path, name: str) -> None:
    text = DVC_YAML + "\n# more\n" if name == "dvc.yaml" else "changed"
    (repository / name).write_text(text)
    state = read_state(repository)
    assert (state.dirty, state.changed) == (True, [name])


def test_the_users_other_files_do_not_make_it_dirty(repository: Path) -> None:
    change(repository, "notes.txt", "new.txt")
    state = read_state(repository)
    assert (state.dirty, state.commit) == (False, git(repository, "rev-parse", "HEAD"))


def test_without_a_commit_or_a_repository_it_is_dirty(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    assert (read_state(tmp_path).dirty, read_state(tmp_path).commit) == (True, None)
    git(tmp_path, "init", "--quiet")
    assert (read_state(tmp_path).dirty, read_state(tmp_path).commit) == (True, None)


def test_the_first_commit_of_a_repository_can_be_a_retrains(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "Test")
    git(tmp_path, "config", "user.email", "test@localhost")
    change(tmp_path, "dvc.lock", "mine.txt")
    assert commit_pointers(tmp_path, message="x") is not None
    assert git(tmp_path, "ls-files") == "dvc.lock"


def test_a_workspace_in_a_folder_of_a_repository_is_checked_out_from_a_commit_on_no_branch(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    inner = repository / "team"
    inner.mkdir()
    (inner / "dvc.yaml").write_text(DVC_YAML)
    change(inner, "dvc.lock")
    commit = commit_pointers(inner, message="x")
    assert commit is not None
    git(repository, "reset", "--quiet", "--hard", "HEAD^")
    folder = tmp_path_factory.mktemp("clone") / "clone"
    found = check_out(repository, commit=commit, folder=folder)
    assert found == folder
    assert (folder / "team" / "dvc.lock").read_text() == "changed"
    assert not (repository / "team" / "dvc.lock").exists()
