"""Whether a release goes live: a verdict from figures and facts, rule by rule; nothing is measured here.

A rule that cannot be judged is never passed: what is missing fails, what is too little to tell is inconclusive, and
only a release with no rule of either kind goes live.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cbir.gate.comparison import check_champion, check_floor, count_clusters, show_difference
from cbir.gate.evidence import Decision, Evidence, IndexFigures, Rule, pass_if
from cbir.params import GateParams
from cbir.statistics import Verdict


def decide(evidence: Evidence, *, params: GateParams) -> Decision:
    """Judge a release by every rule."""
    rules = [
        *_check_data(evidence, params),
        *check_floor("floor", params.floor, evidence.metrics),
        *_check_fusion(evidence.statistics, evidence.metrics, params),
        *check_champion(evidence, params),
        *_check_index(evidence.index, params),
    ]
    return Decision(verdict=settle(rules), rules=rules)


def settle(rules: Sequence[Rule]) -> Verdict:
    """Fail where a binding rule fails, else inconclusive where one is or where there is none, else pass."""
    verdicts = {rule.verdict for rule in rules if rule.binding}
    return "fail" if "fail" in verdicts else "pass" if verdicts == {"pass"} else "inconclusive"


def _check_data(evidence: Evidence, params: GateParams) -> Iterator[Rule]:
    valid, rows = evidence.validation.get("success"), evidence.validation.get("rows")
    yield Rule(
        name="validation",
        verdict=pass_if(valid is True and rows == evidence.index.vectors),
        sentence=f"{rows} rows were validated ({'they hold' if valid is True else 'they do not hold'}), "
        f"{evidence.index.vectors} were embedded",
    )
    for name, words in {
        "test_items_near_training": "test items have a near duplicate in training or validation",
        "leaking_clusters": "clusters of near duplicates have several splits given with the data",
    }.items():
        count = evidence.split.get(name)
        known = isinstance(count, int)
        yield Rule(
            name=f"leakage.{name}",
            verdict=pass_if(known and int(count or 0) <= params.leaks),
            observed=float(count or 0) if known else None,
            threshold=float(params.leaks),
            sentence=f"{count if known else 'unknown how many'} {words}, at most {params.leaks} (gate.leaks)",
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
            yield _judge_gain(name, other, found=found, metrics=metrics, params=params)


def _judge_gain(
    name: str, other: str, *, found: Mapping[str, Any], metrics: Mapping[str, float], params: GateParams
) -> Rule:
    task, _, system = name.partition(".")
    whole = min(metrics.get(f"{task}.{one}.map", 0.0) for one in (system, other)) >= 1.0
    low, high, bar = found["low"], found["high"], params.fusion_margin
    clusters = found.get("clusters")  # earlier versions did not count them
    gain = f"mAP of {name} less that of {other} is {show_difference(found['difference'], low, high)}"
    more: int | None = None
    verdict: Verdict
    if clusters is None:
        verdict = "inconclusive"
        sentence = f"{gain}, of how many clusters of queries is not known; run `cbir-ops retrain` again"
    elif clusters < params.least_clusters:
        verdict, more = "inconclusive", params.least_clusters - clusters
        sentence = (
            f"{gain}: too few queries to tell, {count_clusters(clusters)}; {more} more are needed (gate.least_clusters)"
        )
    else:
        verdict = "pass" if low > bar or whole else "fail" if high <= bar else "inconclusive"
        queries = f"{metrics.get(f'{name}.queries', 0):.0f} queries of {count_clusters(clusters)}"
        nothing = ": both are 1.000, so there is nothing to gain" if whole else ""
        sentence = f"{gain}, above {bar:g} on {queries}{nothing}"
    return Rule(
        name=f"fusion.{name}.above.{other}",
        verdict=verdict,
        observed=found["difference"],
        low=low,
        high=high,
        threshold=bar,
        more_clusters=more,
        sentence=sentence,
    )


def _check_index(index: IndexFigures, params: GateParams) -> Iterator[Rule]:
    yield Rule(
        name="index.rows",
        verdict=pass_if(index.rows == index.vectors > 0),
        observed=float(index.rows),
        threshold=float(index.vectors),
        sentence=f"the table has {index.rows} rows, {index.vectors} vectors were embedded",
    )
    yield Rule(
        name="index.fingerprint",
        verdict=pass_if(index.fingerprint == index.encoder != ""),
        sentence=f"the table's vectors are of encoder {index.fingerprint}, the release is encoder {index.encoder}",
    )
    yield Rule(
        name="index.smoke",
        verdict=pass_if(not index.fault),
        sentence=index.fault or "a fresh process loaded the release and was answered",
    )
    yield _check_recall("index.recall", index.recall, least=params.recall, words="over all rows")
    for share, recall in index.filtered.items():
        name = f"index.filtered_recall.{share}"
        yield _check_recall(name, recall, least=params.filtered_recall, words=f"where a filter leaves {share} %")
    yield Rule(
        name="index.latency",
        verdict=pass_if(index.latency_ms <= params.latency_ms),
        observed=index.latency_ms,
        threshold=params.latency_ms,
        sentence=f"19 of 20 queries by words were answered in {index.latency_ms:.0f} ms, at most "
        f"{params.latency_ms:.0f} (gate.latency_ms)",
    )


def _check_recall(name: str, recall: float, *, least: float, words: str) -> Rule:
    return Rule(
        name=name,
        verdict=pass_if(recall >= least),
        observed=recall,
        threshold=least,
        sentence=f"recall@10 beside exact search {words} is {recall:.3f}, at least {least:.3f}",
    )
