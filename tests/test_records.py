"""What is written is whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from cbir.records import replace_folder


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
