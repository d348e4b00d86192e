"""Whether a changed file is ever taken for one that was read before."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from cbir.known_files import SETTLED, KnownFiles


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was written long before any of these tests reads it."""
    path = tmp_path / "picture.png"
    path.write_bytes(b"one")
    monkeypatch.setattr(time, "time_ns", lambda: path.stat().st_ctime_ns + SETTLED + 1)
    return path


def ask(tmp_path: Path, file: Path) -> tuple[str, int]:
    files = KnownFiles(tmp_path / "known" / "files.parquet")
    found = files.hash(str(file))
    files.save()
    return found, files.opened


def test_a_file_that_did_not_change_is_opened_once(file: Path, tmp_path: Path) -> None:
    assert [ask(tmp_path, file) for _ in range(3)] == [(sha(b"one"), 1), (sha(b"one"), 0), (sha(b"one"), 0)]


def test_bytes_of_the_same_length_with_the_old_time_are_noticed(file: Path, tmp_path: Path) -> None:
    ask(tmp_path, file)
    before = file.stat()
    time.sleep(0.02)  # the clock of the file system ticks
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ask(tmp_path, file) == (sha(b"two"), 1)


def test_a_file_that_another_took_the_place_of_is_noticed(file: Path, tmp_path: Path) -> None:
    ask(tmp_path, file)
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.replace(other, file)
    assert ask(tmp_path, file) == (sha(b"two"), 1)


def test_a_file_that_was_written_just_now_is_read_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: file.stat().st_ctime_ns + SETTLED // 2)
        assert ask(tmp_path, file) == (sha(b"one"), 1)
    assert ask(tmp_path, file) == (sha(b"one"), 1)
    assert ask(tmp_path, file) == (sha(b"one"), 0)


@pytest.mark.parametrize("kept", [b"", b"not a table"])
def test_what_was_kept_and_cannot_be_read_is_made_again(file: Path, tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "files.parquet").write_bytes(kept)
    assert [ask(tmp_path, file) for _ in range(2)] == [(sha(b"one"), 1), (sha(b"one"), 0)]


def test_files_that_went_are_forgotten_and_a_missing_one_is_told(file: Path, tmp_path: Path) -> None:
    ask(tmp_path, file)
    KnownFiles(tmp_path / "known" / "files.parquet").save()
    assert ask(tmp_path, file) == (sha(b"one"), 1)
    with pytest.raises(FileNotFoundError):
        KnownFiles(tmp_path / "known" / "files.parquet").hash(str(tmp_path / "missing"))


def test_what_cannot_be_kept_is_no_fault(file: Path, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("a file where the folder would be")
    assert [ask(tmp_path, file) for _ in range(2)] == [(sha(b"one"), 1), (sha(b"one"), 1)]
