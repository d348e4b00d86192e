"""What is written is whole or not there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from cbir.records import replace_folder

ROOT = Path(__file__).parent.parent
KILL_AT_RENAME = """
import os, sys
from pathlib import Path
from cbir.records import replace_folder

left, replace = [int(sys.argv[2])], os.replace

def die_at_the_last(*paths):
    left[0] -= 1
    replace(*paths) if left[0] else os._exit(9)

with replace_folder(Path(sys.argv[1])) as folder:
    (folder / "new").write_text("new")
    os.replace = die_at_the_last
"""


def list_files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_takes_the_place_of_the_one_before_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with replace_folder(tmp_path / "data" / "out") as folder:
            (folder / name).write_text(name)
            assert not (tmp_path / "data/out" / name).exists()
    assert list_files(tmp_path) == {"data/out/b": "b"}


def test_after_a_fault_the_folder_is_as_it_was_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with replace_folder(out) as folder:
        (folder / "a").write_text("a")
    with pytest.raises(FileNotFoundError), replace_folder(out) as folder:
        (folder / "b" / "missing").write_text("b")
    assert list_files(tmp_path) == {"out/a": "a"}


def test_what_a_killed_writer_left_is_not_part_of_the_next_folder(tmp_path: Path) -> None:
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial/torn").write_text("torn")
    with replace_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    assert list_files(tmp_path) == {"out/a": "a"}


def test_who_reads_while_folders_are_replaced_finds_one_whole_or_none(tmp_path: Path) -> None:
    out, done = tmp_path / "out", Event()
    names = [f"{n}" for n in range(100)]
    seen: list[set[str]] = []

    def read() -> None:
        while not done.is_set():
            try:
                before = out.stat()
                found = set(os.listdir(out))
                after = out.stat()
            except FileNotFoundError:
                continue
            if (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
                seen.append(found)

    reader = Thread(target=read)
    reader.start()
    for _ in range(50):
        with replace_folder(out) as folder:
            for name in names:
                (folder / name).touch()
    done.set()
    reader.join()
    assert seen
    assert all(found == set(names) for found in seen)


@pytest.mark.parametrize("rename", [1, 2])
def test_a_writer_killed_at_a_rename_leaves_the_folder_before_to_the_next(tmp_path: Path, rename: int) -> None:
    out = tmp_path / "out"
    with replace_folder(out) as folder:
        (folder / "old").write_text("old")
    command = [sys.executable, "-c", KILL_AT_RENAME, str(out), str(rename)]
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == 9
    with pytest.raises(ZeroDivisionError), replace_folder(out):
        raise ZeroDivisionError
    assert list_files(tmp_path) == {"out/old": "old"}


def test_a_folder_that_a_killed_writer_had_set_aside_is_put_back_only_where_none_is(tmp_path: Path) -> None:
    out, aside = tmp_path / "out", tmp_path / ".out.old"
    with replace_folder(out) as folder:
        (folder / "a").write_text("a")
    out.rename(aside)
    with replace_folder(out) as folder:
        (folder / "b").write_text("b")
    aside.mkdir()
    (aside / "a").write_text("a")
    with pytest.raises(ZeroDivisionError), replace_folder(out):
        raise ZeroDivisionError
    assert list_files(tmp_path) == {"out/b": "b"}


def test_of_a_folder_nothing_is_deleted_where_it_would_be_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted, delete = list[str](), shutil.rmtree

    def note(path: Path, **options: bool) -> None:
        deleted.extend([path.name] if path.exists() else [])
        delete(path, **options)

    monkeypatch.setattr(shutil, "rmtree", note)
    for _ in range(2):
        with replace_folder(tmp_path / "out"):
            pass
    assert deleted == [".out.partial"]
