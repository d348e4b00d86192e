"""Where there is no terminal, long work says in a line now and then how far it is."""

from __future__ import annotations

import pytest

from cbir import progress
from cbir.progress import follow


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 4))  # seconds: three looks are more than ten of them
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(follow("abcdefgh", description="read", total=8)) == list("abcdefgh")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["read: 2 of 8", "read: 5 of 8"]


def test_short_work_says_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(follow([1, 2], description="read")) == [1, 2]
    assert capsys.readouterr().err == ""
