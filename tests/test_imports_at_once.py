"""Imports at the same time, killed or failing: nothing that was imported is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image

from cbir.errors import SourceError
from cbir.records import read_jsonl
from cbir.sources import import_source
from cbir.sources.removal import remove_items

ROOT = Path(__file__).parent.parent
IMPORT = """
import sys
from pathlib import Path
from typing import Any
from cbir.sources import import_source
print(import_source(sys.argv[1], name="mine", raw=Path(sys.argv[2])).added)
"""


def make_folder(path: Path, *, names: list[str]) -> Path:
    path.mkdir()
    for n, name in enumerate(names):
        Image.new("RGB", (8, 8), (n % 256, n // 256, ord(path.name) % 256)).save(path / f"{name}.png")
    return path


def start_import(folder: Path, raw: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IMPORT, str(folder), str(raw)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def imported(raw: Path) -> set[str]:
    rows = list(read_jsonl(raw / "mine" / "items.jsonl"))
    assert all((raw / "mine" / row["file_name"]).is_file() for row in rows)
    return {row["id"] for row in rows}


def test_two_processes_into_one_source_wait_for_each_other_and_lose_nothing(tmp_path: Path) -> None:
    names = [[f"{side}{n}" for n in range(300)] for side in "ab"]
    folders = [make_folder(tmp_path / side, names=some) for side, some in zip("ab", names, strict=True)]
    running = [start_import(folder, tmp_path / "raw") for folder in folders]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert [out.strip() for out, _ in said] == ["300", "300"]
    assert imported(tmp_path / "raw") == {f"mine/{name}" for some in names for name in some}
    assert not (tmp_path / ".import").exists()


def test_a_second_import_waits_and_says_so_then_gives_up_with_a_clear_error(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", names=["x"])
    with FileLock(tmp_path / ".import.lock"):
        waiting = start_import(folder, tmp_path / "raw")
        assert waiting.stderr is not None
        assert "waiting for another import" in waiting.stderr.readline()
        assert waiting.poll() is None
        with pytest.raises(SourceError, match="Another import into"):
            import_source(str(folder), name="mine", raw=tmp_path / "raw", patience=0.1)
    assert waiting.communicate(timeout=60)[0].strip() == "1"


def test_a_failing_import_keeps_the_earlier_state_and_frees_the_lock(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    import_source(str(make_folder(tmp_path / "a", names=["x"])), name="mine", raw=raw)
    (make_folder(tmp_path / "b", names=["y"]) / "metadata.jsonl").write_text("{x")
    with pytest.raises(SourceError):
        import_source(str(tmp_path / "b"), name="mine", raw=raw)
    assert imported(raw) == {"mine/x"}
    import_source(str(make_folder(tmp_path / "c", names=["z"])), name="mine", raw=raw, patience=0.1)
    assert imported(raw) == {"mine/x", "mine/z"}


def test_an_import_killed_between_its_renames_is_put_back_by_the_next(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    import_source(str(make_folder(tmp_path / "a", names=["x"])), name="mine", raw=raw)
    (tmp_path / ".import" / "old").mkdir(parents=True)
    os.replace(raw / "mine", tmp_path / ".import" / "old" / "mine")
    import_source(str(make_folder(tmp_path / "b", names=["y"])), name="mine", raw=raw)
    assert imported(raw) == {"mine/x", "mine/y"}


def test_a_killed_import_frees_the_lock(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a", names=[f"x{n}" for n in range(2000)])
    killed = start_import(folder, tmp_path / "raw")
    while not (tmp_path / ".import" / "new").exists() and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    import_source(str(folder), name="mine", raw=tmp_path / "raw", patience=5)
    assert len(imported(tmp_path / "raw")) == 2000


def test_a_file_system_without_hard_links_is_imported_into_and_removed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Any, **options: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)  # as FAT and many network shares do
    raw = tmp_path / "raw"
    for name in "ab":
        import_source(str(make_folder(tmp_path / name, names=[f"{name}0", f"{name}1"])), name="mine", raw=raw)
    remove_items("mine", ["a0"], raw=raw)
    assert imported(raw) == {"mine/a1", "mine/b0", "mine/b1"}
    assert sum(path.is_file() for path in (raw / "mine/images").rglob("*")) == 3


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that cannot be renamed into from without, as on a disk of its own."""
    path, replace = tmp_path / "disk", os.replace
    path.mkdir()

    def refuse(source: Path, target: Path) -> None:
        if Path(source).resolve().is_relative_to(path) != Path(target).resolve().is_relative_to(path):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    return path


@pytest.mark.parametrize("target", ["mine/raw", "new", "."], ids=["a folder", "none yet", "the top"])
def test_a_raw_folder_that_is_a_link_to_another_disk_is_imported_into_and_removed_from(
    disk: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == disk)
    (disk / "mine/raw").mkdir(parents=True)
    raw = tmp_path / "data/raw"
    raw.parent.mkdir()
    raw.symlink_to(disk / target)
    for name in "ab":
        import_source(str(make_folder(tmp_path / name, names=[f"{name}0"])), name="mine", raw=raw)
    remove_items("mine", ["a0"], raw=raw)
    assert imported(raw) == {"mine/b0"}
    remove_items("mine", raw=raw)
    assert not (raw / "mine/items.jsonl").exists()
    assert [path for path in tmp_path.rglob(".import") if path.is_dir()] == []
