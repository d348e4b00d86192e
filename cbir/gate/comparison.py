"""The rules that compare a release with the champion, or hold a first one to a floor of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from cbir.answers import QUERY_SETS
from cbir.gate.evidence import Evidence, Pair, Rule, pass_if
from cbir.params import GateParams
from cbir.statistics import Judgement, Verdict, judge_non_inferiority, judge_superiority

OVERRIDE = 'promote it on your own account: `cbir-ops gate --override --release N --by NAME --reason "..."`'


def check_champion(evidence: Evidence, params: GateParams) -> Iterator[Rule]:
    """Compare with the champion, or say why that cannot be; a first release has a floor instead."""
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
        yield from check_floor("first_floor", params.first_floor, metrics)


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
    yield from _improve(evidence, whole, params, rng=rng)
    if contest.golden is not None:
        champion, challenger = contest.golden
        yield Rule(
            name="golden",
            verdict=pass_if(challenger >= champion - params.golden_margin),
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
            scored = not _count_lacking(pair, params)
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
    if lacking := _count_lacking(pair, params):
        return _tell_few(name, pair, lacking=lacking, threshold=-margin, binding=binding)
    found = judge_non_inferiority(
        pair.challenger_Q - pair.champion_Q, pair.cluster_Q, margin=margin, rng=rng, level=params.level
    )
    return _tell(name, found, pair=pair, threshold=-margin, binding=binding)


def _improve(
    evidence: Evidence, whole: Mapping[str, Pair], params: GateParams, *, rng: np.random.Generator
) -> Iterator[Rule]:
    """Better on at least one metric; looked for on several, each interval is wider, so that luck stays as rare."""
    told = {name: _judge_better(whole[name], params=params, rng=rng) for name in params.improve if name in whole}
    yield from told.values()
    better, no_better, unclear = (
        [name for name, rule in told.items() if rule.verdict == verdict] for verdict in ("pass", "fail", "inconclusive")
    )
    unclear += [name for name in params.improve if name not in whole and name in evidence.metrics]
    verdict: Verdict = "pass" if better else "inconclusive" if unclear or not no_better else "fail"
    more = [rule.more_clusters for rule in told.values() if rule.more_clusters]
    words = {
        "pass": f"better on {', '.join(better)}",
        "fail": f"not better on any of {', '.join(no_better)}: no gain of {params.least_gain:g} or more is likely",
        "inconclusive": f"too few queries to tell whether any of {', '.join(unclear or params.improve)} is better"
        if params.improve
        else "no metric is named that could be better; see gate.improve",
    }
    binding = params.require == "superiority"
    yield Rule(
        name="superior",
        verdict=verdict,
        binding=binding,
        more_clusters=min(more) if more and verdict == "inconclusive" else None,
        sentence=words[verdict] + ("" if binding else " (told only: gate.require is non_inferiority)"),
    )


def _judge_better(pair: Pair, *, params: GateParams, rng: np.random.Generator) -> Rule:
    name = f"better.{pair.metric}"
    if lacking := _count_lacking(pair, params):
        return _tell_few(name, pair, lacking=lacking, threshold=0.0, binding=False)
    found = judge_superiority(
        pair.challenger_Q - pair.champion_Q,
        pair.cluster_Q,
        margin=params.least_gain,
        rng=rng,
        tries=len(params.improve),
        level=params.level,
    )
    return _tell(name, found, pair=pair, threshold=0.0, binding=False)


def _count_lacking(pair: Pair, params: GateParams) -> int:
    """How many clusters of queries are lacking to those that a comparison takes at least."""
    return max(params.least_clusters - len(np.unique(pair.cluster_Q)), 0)


def _tell_few(name: str, pair: Pair, *, lacking: int, threshold: float, binding: bool) -> Rule:
    clusters = count_clusters(len(np.unique(pair.cluster_Q)))
    return Rule(
        name=name,
        verdict="inconclusive",
        observed=float((pair.challenger_Q - pair.champion_Q).mean()),
        threshold=threshold,
        more_clusters=lacking,
        binding=binding,
        sentence=f"{_level(pair)}: too few queries to tell, {clusters}; {lacking} more are needed "
        "(gate.least_clusters)",
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
        sentence=f"{_level(pair)}, {show_difference(found.difference, found.low, found.high)}, at least {threshold:g} "
        f"on {len(pair.cluster_Q)} queries of {count_clusters(found.clusters)}{more}",
    )


def count_clusters(clusters: int) -> str:
    """So many clusters, in words."""
    return f"{clusters} cluster" if clusters == 1 else f"{clusters} clusters"


def _level(pair: Pair) -> str:
    return f"{pair.challenger_Q.mean():.3f} against {pair.champion_Q.mean():.3f}"


def show_difference(difference: float, low: float, high: float) -> str:
    """A difference with its interval."""
    return f"{difference:+.3f} ({low:+.3f} to {high:+.3f})"


def check_floor(kind: str, floor: Mapping[str, float], metrics: Mapping[str, float]) -> Iterator[Rule]:
    """Hold each metric to its least value; a missing one fails. ``kind`` is the name of the key in ``gate``."""
    for name, least in floor.items():
        found = metrics.get(name)
        yield Rule(
            name=f"{kind}.{name}",
            verdict=pass_if(found is not None and found >= least),
            observed=found,
            threshold=least,
            sentence=f"{name} is not in metrics.json; mend or drop gate.{kind}"
            if found is None
            else f"{name} is {found:.3f}, at least {least:.3f} (gate.{kind})",
        )
