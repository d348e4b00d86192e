"""What the workspace's git repository says of a release, and what a retrain commits to it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from cbir.errors import GitError

POINTERS = ("dvc.lock", "metrics.json", ":(glob)data/**/*.dvc", ":(glob)data/**/.gitignore")  # written by retrain
SETTINGS = ("dvc.yaml", "params.yaml", ".dvc/config")


@dataclass(frozen=True, kw_only=True)
class GitState:
    """The commit that is checked out, or None; and which files that the pipeline reads or writes differ from it."""

    commit: str | None
    changed: list[str]

    @property
    def dirty(self) -> bool:
        """Whether the commit alone does not say what the pipeline ran on."""
        return self.commit is None or bool(self.changed)


def read_state(workspace: Path) -> GitState:
    """Where git stands; files that have nothing to do with the pipeline do not count."""
    commit = _try_git(workspace, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return GitState(commit=None, changed=[])
    paths = [*SETTINGS, *POINTERS, *_list_sources(workspace)]
    return GitState(commit=commit, changed=_list_changed(workspace, paths))


def commit_pointers(workspace: Path, *, message: str) -> str | None:
    """Commit what a retrain writes for git, and nothing else that is staged or modified; None where nothing changed.

    Raises:
        GitError: there is no repository, or git refuses.
    """
    changed = _list_changed(workspace, POINTERS)
    if not changed:
        return None
    git(workspace, "add", "--", *changed)
    git(workspace, "commit", "--quiet", "--only", "--message", message, "--", *changed)
    return git(workspace, "rev-parse", "HEAD")


def check_out(workspace: Path, *, commit: str, folder: Path) -> Path:
    """Clone the repository into ``folder`` with ``commit`` checked out, and return the workspace in it.

    Objects are shared, so that a commit on no branch is found, too.

    Raises:
        GitError: the commit is not there.
    """
    top = Path(git(workspace, "rev-parse", "--show-toplevel"))
    prefix = git(workspace, "rev-parse", "--show-prefix")
    git(top, "clone", "--quiet", "--shared", "--no-checkout", str(top), str(folder))
    git(folder, "checkout", "--quiet", "--detach", commit)
    return folder / prefix


def git(folder: Path, *arguments: str) -> str:
    """Run git in ``folder`` and return what it prints.

    Raises:
        GitError: it failed.
    """
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise GitError("git is not installed; install it, or set release.commit to false in params.yaml.") from None
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split()) or f"status {done.returncode}"
        raise GitError(f"`git {arguments[0]}` failed in {folder}: {reason}")
    return done.stdout.strip()


def _try_git(folder: Path, *arguments: str) -> str | None:
    try:
        return git(folder, *arguments)
    except GitError:
        return None


def _list_changed(workspace: Path, paths: Sequence[str]) -> list[str]:
    """Those of ``paths`` that differ from the commit or are not in it, relative to the workspace, sorted."""
    committed = _try_git(workspace, "rev-parse", "--verify", "--quiet", "HEAD") is not None
    known = ["diff", "--name-only", "--relative", "HEAD"] if committed else ["ls-files"]
    names = [git(workspace, *known, "-z", "--", *paths)]
    names += [git(workspace, "ls-files", "--others", "--exclude-standard", "-z", "--", *paths)]
    return sorted({name for text in names for name in text.split("\0") if name})


def _list_sources(workspace: Path) -> list[str]:
    """What the stages read and git keeps: code, expectations, golden queries."""
    stages = yaml.safe_load((workspace / "dvc.yaml").read_text(encoding="utf-8"))["stages"].values()
    written = {out for stage in stages for out in stage.get("outs", []) if isinstance(out, str)}
    return sorted({dep for stage in stages for dep in stage.get("deps", [])} - written)
