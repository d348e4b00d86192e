"""The README's benchmarks run to their end, each against its own oracle, at sizes that say nothing of speed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch.utils.benchmark import Measurement, Timer

from benchmarks import __main__ as command
from benchmarks import encoder, finetuning, scores, timing


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (timing, "time_call", _time_once),
        (encoder, "time_call", _time_once),
        (scores, "time_call", _time_once),
        (encoder, "IMAGES", 6),
        (encoder, "BATCH", 8),
        (encoder, "LABELS", 7),
        (finetuning, "BATCH", 4),
        (finetuning, "IMAGES", 8),
        (finetuning, "SETTINGS", (("32-true", False, 4),)),
        (scores, "QUERIES", 20),
        (scores, "ITEMS", 200),
    ):
        monkeypatch.setattr(module, name, value)


def _time_once(call: Callable[[], object]) -> Measurement:
    return Timer("call()", globals={"call": call}).timeit(1)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["embedding", "step", "towers", "epochs", "metrics"])
def test_a_benchmark_agrees_with_what_it_is_compared_with(part: str) -> None:
    rows = command.PARTS[part]()
    assert rows
    assert all(len(row) == 4 and all(row) for row in rows)


def test_queries_without_a_release_say_how_to_get_one(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ((name, measured, _, how),) = command.PARTS["query"]()
    assert (name, measured) == ("query", "not measured")
    assert "make demo" in how


def test_an_unknown_benchmark_is_named_beside_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "spede"])
    with pytest.raises(SystemExit, match=r"no benchmark spede; there are embedding"):
        command.main()
