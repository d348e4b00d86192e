"""Every rule of the gate, on figures made by hand: what it passes, what it refuses, and what it cannot tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cbir.gate.decision import decide, settle
from cbir.gate.evidence import Contest, Decision, Evidence, IndexFigures, Pair, Rule
from cbir.params import GateParams
from cbir.params.file import load_section

ROOT = Path(__file__).parent.parent
MAP, WORDS = "label.fused_both.map", "text_to_image.fused.map"
PARAMS = GateParams(
    floor={MAP: 0.5},
    first_floor={MAP: 0.6},
    protect={MAP: 0.02},
    improve=(MAP,),
    least_gain=0.02,
    least_clusters=30,
    fusion=("label.fused_both",),
)
INDEX = IndexFigures(
    rows=400,
    vectors=400,
    fingerprint="f",
    encoder="f",
    recall=1.0,
    filtered={"50": 1.0, "10": 1.0, "1": 1.0},
    latency_ms=20.0,
    fault="",
)


def make_pair(gain: float, *, queries: int = 400, spread: float = 0.05, metric: str = MAP, part: str = "") -> Pair:
    """The challenger's mean is above the champion's by exactly ``gain``; every query is a cluster of its own."""
    noise_Q = np.random.default_rng(0).normal(0.0, spread, queries)
    return Pair(
        metric=metric,
        part=part,
        champion_Q=np.full(queries, 0.5),
        challenger_Q=0.5 + gain + noise_Q - noise_Q.mean(),
        cluster_Q=np.arange(queries),
    )


def make_gain(low: float, high: float, *, clusters: int = 100) -> dict[str, float]:
    """As the evaluation says by how much a fused system is above another one."""
    return {"difference": (low + high) / 2, "low": low, "high": high, "clusters": clusters}


def make_evidence(*pairs: Pair, **changes: Any) -> Evidence:
    evidence = Evidence(
        metrics={MAP: 0.7, "label.fused_both.queries": 100.0},
        statistics={"label": {"fused_both": {"above": {"sum": make_gain(0.05, 0.15)}}}},
        validation={"success": True, "rows": 400},
        split={"test_items_near_training": 0, "leaking_clusters": 0},
        index=INDEX,
        contest=Contest(champion="read", version="1", metrics={MAP: 0.69}, test_items=400, fresh_items=400),
        pairs=pairs or (make_pair(0.05),),
    )
    return replace(evidence, **changes)


def hindrances(decision: Decision) -> dict[str, str]:
    return {rule.name: rule.verdict for rule in decision.rules if rule.binding and rule.verdict != "pass"}


def test_a_better_challenger_with_everything_in_order_passes() -> None:
    decision = decide(make_evidence(), params=PARAMS)
    assert (decision.verdict, hindrances(decision)) == ("pass", {})


def test_an_equal_challenger_is_refused_unless_being_no_worse_is_enough() -> None:
    equal = make_evidence(make_pair(0.0))
    assert hindrances(decide(equal, params=PARAMS)) == {"superior": "fail"}
    assert decide(equal, params=replace(PARAMS, require="non_inferiority")).verdict == "pass"


def test_a_worse_challenger_is_refused_by_both_rules() -> None:
    decision = decide(make_evidence(make_pair(-0.05)), params=PARAMS)
    assert hindrances(decision) == {f"non_inferior.{MAP}": "fail", "superior": "fail"}


def test_better_on_one_metric_does_not_make_up_for_worse_on_another() -> None:
    params = replace(PARAMS, protect={MAP: 0.02, WORDS: 0.02})
    evidence = make_evidence(make_pair(0.05), make_pair(-0.05, metric=WORDS))
    assert hindrances(decide(evidence, params=params)) == {f"non_inferior.{WORDS}": "fail"}


def test_worse_on_one_slice_is_refused_and_a_small_slice_is_told_but_not_scored() -> None:
    slices = make_pair(-0.2, queries=60, part="label=food"), make_pair(-0.2, queries=10, part="label=flags")
    decision = decide(make_evidence(make_pair(0.05), *slices), params=PARAMS)
    assert hindrances(decision) == {f"non_inferior.{MAP}[label=food]": "fail"}
    told = next(rule for rule in decision.rules if rule.name.endswith("[label=flags]"))
    assert (told.binding, told.observed, told.more_clusters) == (False, pytest.approx(-0.2), 20)


def test_too_few_common_items_are_inconclusive_and_say_how_many_more() -> None:
    contest = Contest(champion="read", version="1", metrics={MAP: 0.69}, test_items=400, fresh_items=12)
    decision = decide(make_evidence(make_pair(0.05, queries=12), contest=contest), params=PARAMS)
    assert decision.verdict == "inconclusive"
    more = {rule.name: rule.more_clusters for rule in decision.rules if rule.verdict == "inconclusive"}
    assert more == {"common_items": 18, f"non_inferior.{MAP}": 18, f"better.{MAP}": 18, "superior": 18}


def test_a_gain_that_cannot_be_told_from_luck_is_inconclusive_and_says_how_many_more() -> None:
    decision = decide(make_evidence(make_pair(0.01, queries=100, spread=0.1)), params=PARAMS)
    rule = next(rule for rule in decision.rules if rule.name == "superior")
    half = 1.98 * 0.1 / 100**0.5
    assert (decision.verdict, rule.verdict) == ("inconclusive", "inconclusive")
    assert rule.more_clusters == pytest.approx(100 * (half / 0.01) ** 2 - 100, rel=0.2)


def test_the_more_metrics_may_be_better_the_more_any_of_them_must_be() -> None:
    pair = make_pair(0.0115, queries=100, spread=0.05)
    assert decide(make_evidence(pair), params=PARAMS).verdict == "pass"
    many = (MAP, "a.b.map", "c.d.map", "e.f.map", "g.h.map")
    assert hindrances(decide(make_evidence(pair), params=replace(PARAMS, improve=many))) == {"superior": "inconclusive"}


def test_a_metric_with_too_few_clusters_to_tell_is_not_said_to_be_no_better() -> None:
    params = replace(PARAMS, improve=(MAP, WORDS))
    evidence = make_evidence(make_pair(0.0), make_pair(0.0, queries=12, metric=WORDS))
    decision = decide(evidence, params=params)
    assert hindrances(decision) == {"superior": "inconclusive"}
    told = {rule.name: rule for rule in decision.rules}
    assert told["superior"].sentence == f"too few queries to tell whether any of {WORDS} is better"
    assert told["superior"].more_clusters == told[f"better.{WORDS}"].more_clusters == 18
    better = make_evidence(make_pair(0.05), make_pair(0.0, queries=12, metric=WORDS))
    assert decide(better, params=params).verdict == "pass"


def test_a_measured_metric_of_which_no_common_query_is_left_is_not_said_to_be_no_better_either() -> None:
    params, equal = replace(PARAMS, improve=(MAP, WORDS)), make_evidence(make_pair(0.0))
    measured = replace(equal, metrics={**equal.metrics, WORDS: 0.6})
    assert hindrances(decide(measured, params=params)) == {"superior": "inconclusive"}
    decision = decide(equal, params=params)  # nothing asks it
    assert hindrances(decision) == {"superior": "fail"}
    assert f"not better on any of {MAP}: " in next(r.sentence for r in decision.rules if r.name == "superior")


@pytest.mark.parametrize(
    ("contest", "rule", "words"),
    [
        (Contest(champion="unreadable", version="7", fault="no weights"), "champion_unreadable", "no weights"),
        (Contest(champion="lost"), "champion_lost", "set the alias again"),
    ],
)
def test_a_champion_that_cannot_be_compared_with_fails_and_names_the_override(
    contest: Contest, rule: str, words: str
) -> None:
    decision = decide(make_evidence(contest=contest), params=PARAMS)
    assert hindrances(decision) == {rule: "fail"}
    sentence = next(one.sentence for one in decision.rules if one.name == rule)
    assert words in sentence
    assert "cbir-ops gate --override" in sentence


def test_a_first_release_has_a_floor_of_its_own_and_fails_without_one() -> None:
    first = make_evidence(contest=Contest(champion="none"))
    assert decide(first, params=PARAMS).verdict == "pass"
    low = replace(first, metrics={MAP: 0.55})
    assert hindrances(decide(low, params=PARAMS)) == {f"first_floor.{MAP}": "fail"}
    assert hindrances(decide(first, params=replace(PARAMS, first_floor=None))) == {"first_floor": "fail"}


def test_a_floor_of_a_metric_that_is_missing_or_no_number_fails() -> None:
    for metrics in ({}, {MAP: float("nan")}):
        assert hindrances(decide(make_evidence(metrics=metrics), params=PARAMS)) == {f"floor.{MAP}": "fail"}


def test_a_protected_metric_that_the_champion_had_and_the_data_lost_fails() -> None:
    params = replace(PARAMS, protect={MAP: 0.02, "relative.fused_both.map": 0.02})
    assert decide(make_evidence(), params=params).verdict == "pass"  # neither has relative captions
    contest = replace(make_evidence().contest, metrics={MAP: 0.69, "relative.fused_both.map": 0.8})
    assert hindrances(decide(make_evidence(contest=contest), params=params)) == {
        "non_inferior.relative.fused_both.map": "fail"
    }


@pytest.mark.parametrize("name", ["label.fused_bth.map", "labels.fused_both.map"])
def test_a_protected_metric_by_a_wrong_name_fails(name: str) -> None:
    params = replace(PARAMS, protect={MAP: 0.02, name: 0.02})
    assert hindrances(decide(make_evidence(), params=params)) == {f"non_inferior.{name}": "fail"}


def test_nothing_protected_is_nothing_compared() -> None:
    assert hindrances(decide(make_evidence(), params=replace(PARAMS, protect={}))) == {"non_inferior": "inconclusive"}


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.01, 0.2, None), (-0.05, 0.2, "inconclusive"), (-0.2, -0.01, "fail")]
)
def test_fusion_must_be_above_every_other_system(low: float, high: float, verdict: str | None) -> None:
    above = {"sum": make_gain(0.05, 0.15), "text_only": make_gain(low, high)}
    evidence = make_evidence(statistics={"label": {"fused_both": {"above": above}}})
    expected = {} if verdict is None else {"fusion.label.fused_both.above.text_only": verdict}
    assert hindrances(decide(evidence, params=PARAMS)) == expected


@pytest.mark.parametrize(("words", "verdict"), [(1.0, "pass"), (0.99, "fail")])
def test_where_words_alone_are_perfect_fusion_need_not_gain(words: float, verdict: str) -> None:
    above = {"text_only": make_gain(0.0, 0.0)}
    evidence = make_evidence(
        metrics={MAP: 1.0, "label.text_only.map": words, "label.fused_both.queries": 100.0},
        statistics={"label": {"fused_both": {"above": above}}},
    )
    rule = next(rule for rule in decide(evidence, params=PARAMS).rules if rule.name.endswith("above.text_only"))
    assert (rule.verdict, "nothing to gain" in rule.sentence) == (verdict, verdict == "pass")


@pytest.mark.parametrize(
    ("gain", "sentence", "more"),
    [
        (make_gain(0.1, 0.1, clusters=1), "too few queries to tell, 1 cluster; 29 more are needed", 29),
        (make_gain(-0.2, -0.1, clusters=29), "too few queries to tell, 29 clusters; 1 more are needed", 1),
        ({"difference": 0.1, "low": 0.05, "high": 0.15}, "of how many clusters of queries is not known", None),
    ],
    ids=["one cluster", "one too few", "statistics of an earlier version"],
)
def test_fusion_on_too_few_clusters_or_on_nobody_knows_how_many_is_inconclusive(
    gain: dict[str, float], sentence: str, more: int | None
) -> None:
    decision = decide(make_evidence(statistics={"label": {"fused_both": {"above": {"sum": gain}}}}), params=PARAMS)
    assert hindrances(decision) == {"fusion.label.fused_both.above.sum": "inconclusive"}
    rule = next(rule for rule in decision.rules if rule.name.startswith("fusion"))
    assert (sentence in rule.sentence, rule.more_clusters) == (True, more)


def test_fusion_that_is_compared_with_nothing_fails() -> None:
    assert hindrances(decide(make_evidence(statistics={}), params=PARAMS)) == {"fusion.label.fused_both": "fail"}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"rows": 399}, "index.rows"),
        ({"fingerprint": "g"}, "index.fingerprint"),
        ({"fault": "it did not load"}, "index.smoke"),
        ({"recall": 0.9}, "index.recall"),
        ({"filtered": {"50": 1.0, "10": 1.0, "1": 0.5}}, "index.filtered_recall.1"),
        ({"latency_ms": 5000.0}, "index.latency"),
    ],
)
def test_an_index_that_does_not_answer_as_it_should_fails(changes: dict[str, Any], rule: str) -> None:
    assert hindrances(decide(make_evidence(index=replace(INDEX, **changes)), params=PARAMS)) == {rule: "fail"}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"validation": {}}, "validation"),
        ({"validation": {"success": False, "rows": 400}}, "validation"),
        ({"validation": {"success": True, "rows": 380}}, "validation"),
        ({"split": {"leaking_clusters": 0}}, "leakage.test_items_near_training"),
        ({"split": {"test_items_near_training": 0, "leaking_clusters": 2}}, "leakage.leaking_clusters"),
    ],
)
def test_data_that_is_not_valid_or_leaks_fails(changes: dict[str, Any], rule: str) -> None:
    assert hindrances(decide(make_evidence(**changes), params=PARAMS)) == {rule: "fail"}


def test_golden_queries_may_not_get_worse() -> None:
    def judge(champion: float, challenger: float, margin: float) -> str:
        contest = replace(make_evidence().contest, golden=(champion, challenger))
        return decide(make_evidence(contest=contest), params=replace(PARAMS, golden_margin=margin)).verdict

    assert [judge(0.8, 0.8, 0.0), judge(0.8, 0.79, 0.0), judge(0.8, 0.79, 0.02)] == ["pass", "fail", "pass"]


def test_no_binding_rule_is_no_pass_and_a_fail_outweighs_what_cannot_be_told() -> None:
    def rule(verdict: Any, *, binding: bool = True) -> Rule:
        return Rule(name="", verdict=verdict, sentence="", binding=binding)

    assert settle([]) == settle([rule("pass", binding=False)]) == "inconclusive"
    assert settle([rule("pass"), rule("inconclusive"), rule("fail")]) == "fail"
    assert settle([rule("pass"), rule("fail", binding=False)]) == "pass"


def test_the_same_evidence_has_the_same_verdict_to_the_last_digit() -> None:
    assert decide(make_evidence(), params=PARAMS) == decide(make_evidence(), params=PARAMS)


def test_the_gate_of_a_fresh_clone_requires_superiority_and_a_floor_for_a_first_release() -> None:
    params = load_section(ROOT / "params.yaml", "gate", GateParams)
    assert (params.require, bool(params.first_floor), params.leaks) == ("superiority", True, 0)
    assert set(yaml.safe_load((ROOT / "params.yaml").read_text())["gate"]) == set(vars(params))
