"""Whether a release goes live: a verdict from figures and facts, rule by rule; nothing is measured here.

A rule that cannot be judged is never passed: what is missing fails, what is too little to tell is inconclusive, and
only a release with no rule of either kind goes live.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from cbir.params import GateParams
from cbir.statistics import Judgement, Verdict, judge_non_inferiority, judge_superiority

QUERY_SETS = ("text_to_image", "image_to_text", "label", "relative", "relative_indexed")
OVERRIDE = 'promote it on your own account: `cbir-ops gate --override --release N --by NAME --reason "..."`'


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


def decide(evidence: Evidence, *, params: GateParams) -> Decision:
    """Judge a release by every rule."""
    rules = [
        *_check_data(evidence, params),
        *_check_floor("floor", params.floor, evidence.metrics),
        *_check_fusion(evidence.statistics, evidence.metrics, params),
        *_check_champion(evidence, params),
        *_check_index(evidence.index, params),
    ]
    return Decision(verdict=settle(rules), rules=rules)


def settle(rules: Sequence[Rule]) -> Verdict:
    """Fail where a binding rule fails, else inconclusive where one is or where there is none, else pass."""
    verdicts = {rule.verdict for rule in rules if rule.binding}
    return "fail" if "fail" in verdicts else "pass" if verdicts == {"pass"} else "inconclusive"


def _pass_if(holds: bool) -> Verdict:
    return "pass" if holds else "fail"


def _check_data(evidence: Evidence, params: GateParams) -> Iterator[Rule]:
    valid, rows = evidence.validation.get("success"), evidence.validation.get("rows")
    yield Rule(
        name="validation",
        verdict=_pass_if(valid is True and rows == evidence.index.vectors),
        sentence=f"{rows} rows were validated ({'they hold' if valid is True else 'they do not hold'}), "
        f"{evidence.index.vectors} were embedded",
    )
    for name, words in {
        "test_items_near_training": "test items have a near duplicate in training",
        "leaking_clusters": "clusters of near duplicates have several splits given with the data",
    }.items():
        count = evidence.split.get(name)
        known = isinstance(count, int)
        yield Rule(
            name=f"leakage.{name}",
            verdict=_pass_if(known and int(count or 0) <= params.leaks),
            observed=float(count or 0) if known else None,
            threshold=float(params.leaks),
            sentence=f"{count if known else 'unknown how many'} {words}, at most {params.leaks} (gate.leaks)",
        )


def _check_floor(kind: str, floor: Mapping[str, float], metrics: Mapping[str, float]) -> Iterator[Rule]:
    for name, least in floor.items():
        found = metrics.get(name)
        yield Rule(
            name=f"{kind}.{name}",
            verdict=_pass_if(found is not None and found >= least),
            observed=found,
            threshold=least,
            sentence=f"{name} is not in metrics.json; mend or drop gate.{kind}"
            if found is None
            else f"{name} is {found:.3f}, at least {least:.3f} (gate.{kind})",
        )


def _check_fusion(statistics: Mapping[str, Any], metrics: Mapping[str, float], params: GateParams) -> Iterator[Rule]:
    """The fused system above every other one of its task: each single modality, and the plain sum."""
    for name in params.fusion:
        task, _, system = name.partition(".")
        above = statistics.get(task, {}).get(system, {}).get("above", {})
        if not above:
            yield Rule(
                name=f"fusion.{name}",
                verdict="fail",
                sentence=f"{name} is not compared with anything in statistics.json; mend or drop gate.fusion",
            )
        for other, found in above.items():
            low, high, bar = found["low"], found["high"], params.fusion_margin
            queries = metrics.get(f"{name}.queries", 0)
            yield Rule(
                name=f"fusion.{name}.above.{other}",
                verdict="pass" if low > bar else "fail" if high <= bar else "inconclusive",
                observed=found["difference"],
                low=low,
                high=high,
                threshold=bar,
                sentence=f"mAP of {name} less that of {other} is {_show(found['difference'], low, high)}, "
                f"above {bar:g} on {queries:.0f} queries",
            )


def _check_champion(evidence: Evidence, params: GateParams) -> Iterator[Rule]:
    contest = evidence.contest
    match contest.champion:
        case "none":
            yield from _check_first(evidence.metrics, params)
        case "lost":
            yield Rule(
                name="champion_lost",
                verdict="fail",
                sentence="the history has a champion and the registry has none, so there is nothing to compare with; "
                f"set the alias again, or {OVERRIDE}",
            )
        case "unreadable":
            yield Rule(
                name="champion_unreadable",
                verdict="fail",
                sentence=f"the champion, release {contest.version}, cannot be compared with ({contest.fault}); "
                f"look at the challenger's figures, then {OVERRIDE}",
            )
        case "read":
            yield from _compare(evidence, params)


def _check_first(metrics: Mapping[str, float], params: GateParams) -> Iterator[Rule]:
    if params.first_floor is None:
        yield Rule(
            name="first_floor",
            verdict="fail",
            sentence="there is no champion to compare with, and no floor for a first release; set gate.first_floor",
        )
    else:
        yield from _check_floor("first_floor", params.first_floor, metrics)


def _compare(evidence: Evidence, params: GateParams) -> Iterator[Rule]:
    contest = evidence.contest
    lacking = max(params.least_clusters - contest.fresh_items, 0)
    yield Rule(
        name="common_items",
        verdict="inconclusive" if lacking else "pass",
        observed=float(contest.fresh_items),
        threshold=float(params.least_clusters),
        more_clusters=lacking or None,
        sentence=f"{contest.fresh_items} of {contest.test_items} test items are new to release {contest.version}, "
        f"at least {params.least_clusters} (gate.least_clusters)",
    )
    rng = np.random.default_rng(params.seed)
    whole = {pair.metric: pair for pair in evidence.pairs if not pair.part}
    for name, margin in params.protect.items():
        yield from _protect(name, margin, evidence=evidence, whole=whole, params=params, rng=rng)
    if not any(name in whole for name in params.protect):
        yield Rule(
            name="non_inferior",
            verdict="inconclusive",
            sentence="no protected metric was measured of both releases; see gate.protect in params.yaml",
        )
    yield from _improve(whole, params, rng=rng)
    if contest.golden is not None:
        champion, challenger = contest.golden
        yield Rule(
            name="golden",
            verdict=_pass_if(challenger >= champion - params.golden_margin),
            observed=challenger - champion,
            threshold=-params.golden_margin,
            sentence=f"nDCG of the golden queries is {challenger:.3f}, the champion's {champion:.3f}, "
            f"it may fall by {params.golden_margin:g} (gate.golden_margin)",
        )


def _protect(
    name: str,
    margin: float,
    *,
    evidence: Evidence,
    whole: Mapping[str, Pair],
    params: GateParams,
    rng: np.random.Generator,
) -> Iterator[Rule]:
    if name in whole:
        yield _judge_pair(whole[name], margin=margin, params=params, rng=rng, binding=True)
    else:
        yield _miss(name, evidence)
    for pair in evidence.pairs:
        if pair.metric == name and pair.part:
            scored = len(np.unique(pair.cluster_Q)) >= params.least_clusters
            yield _judge_pair(pair, margin=params.slice_margin, params=params, rng=rng, binding=scored)


def _miss(name: str, evidence: Evidence) -> Rule:
    """A protected metric without a comparison: fine only where neither release has queries of its kind."""
    task = name.partition(".")[0]
    asked = any(metric.startswith(f"{task}.") for metric in (*evidence.metrics, *evidence.contest.metrics))
    if task in QUERY_SETS and not asked:
        sentence = f"no item of the catalogue asks {task}"
        return Rule(name=f"non_inferior.{name}", verdict="inconclusive", binding=False, sentence=sentence)
    measured = name in evidence.metrics
    return Rule(
        name=f"non_inferior.{name}",
        verdict="inconclusive" if measured else "fail",
        sentence=f"no query of {name} is left among the common items; import more pictures"
        if measured
        else f"{name} is not measured any more, or its name is wrong; mend gate.protect, or see what the data lost",
    )


def _judge_pair(pair: Pair, *, margin: float, params: GateParams, rng: np.random.Generator, binding: bool) -> Rule:
    name = f"non_inferior.{pair.metric}" + (f"[{pair.part}]" if pair.part else "")
    clusters = len(np.unique(pair.cluster_Q))
    if clusters < params.least_clusters:
        lacking = params.least_clusters - clusters
        return Rule(
            name=name,
            verdict="inconclusive",
            observed=float((pair.challenger_Q - pair.champion_Q).mean()),
            threshold=-margin,
            more_clusters=lacking,
            binding=binding,
            sentence=f"{_level(pair)}: too few queries to tell, {clusters} clusters; {lacking} more are needed",
        )
    found = judge_non_inferiority(
        pair.challenger_Q - pair.champion_Q, pair.cluster_Q, margin=margin, rng=rng, level=params.level
    )
    return _tell(name, found, pair=pair, threshold=-margin, binding=binding)


def _improve(whole: Mapping[str, Pair], params: GateParams, *, rng: np.random.Generator) -> Iterator[Rule]:
    """Better on at least one metric; looked for on several, each interval is wider, so that luck stays as rare."""
    binding = params.require == "superiority"
    pairs = [whole[name] for name in params.improve if name in whole]
    pairs = [pair for pair in pairs if len(np.unique(pair.cluster_Q)) >= params.least_clusters]
    tries = len(params.improve)
    found = {
        pair.metric: judge_superiority(
            pair.challenger_Q - pair.champion_Q,
            pair.cluster_Q,
            margin=params.least_gain,
            rng=rng,
            tries=tries,
            level=params.level,
        )
        for pair in pairs
    }
    for pair in pairs:
        yield _tell(f"better.{pair.metric}", found[pair.metric], pair=pair, threshold=0.0, binding=False)
    verdicts = [judgement.verdict for judgement in found.values()]
    verdict: Verdict = (
        "pass" if "pass" in verdicts else "inconclusive" if "inconclusive" in verdicts or not verdicts else "fail"
    )
    more = [judgement.more_clusters for judgement in found.values() if judgement.more_clusters]
    words = {
        "pass": "better on " + ", ".join(name for name, j in found.items() if j.verdict == "pass"),
        "fail": f"not better on any of {', '.join(params.improve)}: no gain of {params.least_gain:g} or more is likely",
        "inconclusive": f"too few queries to tell whether any of {', '.join(params.improve)} is better"
        if params.improve
        else "no metric is named that could be better; see gate.improve",
    }
    yield Rule(
        name="superior",
        verdict=verdict,
        binding=binding,
        more_clusters=min(more) if more and verdict == "inconclusive" else None,
        sentence=words[verdict] + ("" if binding else " (told only: gate.require is non_inferiority)"),
    )


def _tell(name: str, found: Judgement, *, pair: Pair, threshold: float, binding: bool) -> Rule:
    more = f"; about {found.more_clusters} more would settle it" if found.more_clusters else ""
    return Rule(
        name=name,
        verdict=found.verdict,
        observed=found.difference,
        low=found.low,
        high=found.high,
        threshold=threshold,
        more_clusters=found.more_clusters,
        binding=binding,
        sentence=f"{_level(pair)}, {_show(found.difference, found.low, found.high)}, at least {threshold:g} on "
        f"{len(pair.cluster_Q)} queries of {found.clusters} clusters{more}",
    )


def _level(pair: Pair) -> str:
    return f"{pair.challenger_Q.mean():.3f} against {pair.champion_Q.mean():.3f}"


def _show(difference: float, low: float, high: float) -> str:
    return f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"


def _check_index(index: IndexFigures, params: GateParams) -> Iterator[Rule]:
    yield Rule(
        name="index.rows",
        verdict=_pass_if(index.rows == index.vectors > 0),
        observed=float(index.rows),
        threshold=float(index.vectors),
        sentence=f"the table has {index.rows} rows, {index.vectors} vectors were embedded",
    )
    yield Rule(
        name="index.fingerprint",
        verdict=_pass_if(index.fingerprint == index.encoder != ""),
        sentence=f"the table's vectors are of encoder {index.fingerprint}, the release is encoder {index.encoder}",
    )
    yield Rule(
        name="index.smoke",
        verdict=_pass_if(not index.fault),
        sentence=index.fault or "a fresh process loaded the release and was answered",
    )
    yield _check_recall("index.recall", index.recall, least=params.recall, words="over all rows")
    for share, recall in index.filtered.items():
        name = f"index.filtered_recall.{share}"
        yield _check_recall(name, recall, least=params.filtered_recall, words=f"where a filter leaves {share} %")
    yield Rule(
        name="index.latency",
        verdict=_pass_if(index.latency_ms <= params.latency_ms),
        observed=index.latency_ms,
        threshold=params.latency_ms,
        sentence=f"19 of 20 queries by words were answered in {index.latency_ms:.0f} ms, at most "
        f"{params.latency_ms:.0f} (gate.latency_ms)",
    )


def _check_recall(name: str, recall: float, *, least: float, words: str) -> Rule:
    return Rule(
        name=name,
        verdict=_pass_if(recall >= least),
        observed=recall,
        threshold=least,
        sentence=f"recall@10 beside exact search {words} is {recall:.3f}, at least {least:.3f}",
    )
