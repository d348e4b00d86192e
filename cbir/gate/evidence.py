"""What the gate is told about a release, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from cbir.statistics import Verdict


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that was asked, with the figures that answered it.

    ``more_clusters``: of queries, that would settle it. A rule that is not ``binding`` is told and does not count.
    """

    name: str
    verdict: Verdict
    sentence: str
    observed: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    more_clusters: int | None = None
    binding: bool = True


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One metric on the same queries, answered by the champion and by the challenger; ``part`` is a slice's name."""

    metric: str
    part: str
    champion_Q: np.ndarray
    challenger_Q: np.ndarray
    cluster_Q: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What the challenger was compared with, and on what.

    ``champion``: "none", there never was one; "lost", the history has one and the registry does not; "unreadable",
    ``fault`` says why; or "read". ``metrics`` are the champion's own, of when it was registered. ``golden`` is the
    champion's and the challenger's nDCG on the golden queries, or None where there are none.
    """

    champion: Literal["none", "lost", "unreadable", "read"]
    version: str | None = None
    fault: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    test_items: int = 0
    fresh_items: int = 0
    golden: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class IndexFigures:
    """How the built index answers: recall@10 beside exact search, of all rows and of a share of them.

    ``fault`` is what a fresh process that loaded the release and asked it said, or empty.
    """

    rows: int
    vectors: int
    fingerprint: str
    encoder: str
    recall: float
    filtered: Mapping[str, float]
    latency_ms: float
    fault: str


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that is known about a release when it is judged; ``metrics`` are flat, dotted."""

    metrics: Mapping[str, float]
    statistics: Mapping[str, Any]
    validation: Mapping[str, Any]
    split: Mapping[str, Any]
    index: IndexFigures
    contest: Contest
    pairs: Sequence[Pair]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The verdict, and every rule behind it."""

    verdict: Verdict
    rules: Sequence[Rule]

    def to_json(self) -> dict[str, Any]:
        """As it lies in ``gate.json``."""
        return asdict(self)


def pass_if(holds: bool) -> Verdict:
    """A verdict on what is known for sure."""
    return "pass" if holds else "fail"
