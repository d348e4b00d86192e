"""Hashes of stages: of the code and the data that they run on, and where the output of a hash lies in the cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import yaml

from cbir.errors import StageError, WorkspaceError
from cbir.records import read_json


def find_cache(workspace: Path) -> Path:
    """Folder of the workspace's DVC cache.

    Raises:
        StageError: DVC does not say.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"],
        cwd=workspace,
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise StageError(f"`dvc cache dir` failed in {workspace}: {done.stderr.strip()}")
    return workspace / done.stdout.strip().splitlines()[-1]


def list_files(cache: Path, md5: str) -> dict[str, Path]:
    """The files of an output that is a folder, by their paths in it.

    Raises:
        WorkspaceError: one is not in the cache.
    """
    listed = read_json(_locate(cache, md5))
    return {entry["relpath"]: _locate(cache, entry["md5"]) for entry in listed}


def hash_code(workspace: Path, stage: str) -> str:
    """Hash of the code of ours that a stage depends on by ``dvc.yaml``, as it lies in the workspace."""
    deps = yaml.safe_load((workspace / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["deps"]
    digest = hashlib.sha256()
    for path in (workspace / dep for dep in deps if dep.startswith("cbir/")):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def read_data_revision(workspace: Path) -> str | None:
    """Hash of the raw data that the stage `ingest` last read, or None where it has not run under DVC."""
    lock = workspace / "dvc.lock"
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"] if lock.exists() else {}
    deps = {dep["path"]: dep["md5"] for dep in stages.get("ingest", {}).get("deps", [])}
    return deps.get("data/raw")


def _locate(cache: Path, md5: str) -> Path:
    path = cache / "files" / "md5" / md5[:2] / md5[2:]
    if not path.exists():
        raise WorkspaceError(
            f"The output {md5} is not in the DVC cache {cache}; check out the release's git commit and run `dvc fetch`."
        )
    return path
