"""The part of `retrain` between a published table and a promotion: measure, compare with the champion, decide."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from prefect import get_run_logger, task

from cbir.contest import Contestant, Field, hold_contest, list_pairs
from cbir.encoder import Encoder
from cbir.errors import IndexError_, ReleaseError
from cbir.features import CACHE
from cbir.gate.decision import decide
from cbir.gate.evidence import Contest, Decision, Evidence, IndexFigures, Rule
from cbir.gate_report import shorten_reasons
from cbir.index_check import check_index
from cbir.params import EvaluateParams, GateParams, SplitParams
from cbir.params.file import load_section, read_document
from cbir.records import read_json, read_table, write_json, write_table
from cbir.registry import Registry, Release, flatten_metrics, open_registry
from cbir.workspace import locate_gate, locate_index
from flows.faults import may_pass
from flows.pages import show_decision

SPLIT_EVIDENCE = "split.parquet"
INDEX, CONTEST, SCORES, GATE = "index.json", "contest.json", "scores.parquet", "gate.json"


def find_release(root: Path, key: str) -> tuple[Registry, Release]:
    """The registry, and the release that was registered under ``key`` one task ago."""
    registry = open_registry(root)
    release = registry.find(key)
    assert release is not None, "registered one task ago"
    return registry, release


def make_gate_key(root: Path, champion: Release | None) -> str:
    """A hash of what a decision hangs on beside the release: the champion, the gate's params and the evaluation.

    A decision with an equal key stands, and is not made again.
    """
    params = read_document(root / "params.yaml")
    asked = {name: params.get(name) for name in ("gate", "evaluate")}
    parts = [champion.key if champion else "", json.dumps(asked, sort_keys=True)]
    parts += [(root / name).read_text() for name in ("metrics.json", "data/evaluated/statistics.json")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@task(
    name="check the release as users will hit it",
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=may_pass,
    timeout_seconds=3600,
)
def check_release(workspace: str, key: str) -> str:
    """Measure how the built index answers; return the path of the figures."""
    root = Path(workspace)
    registry, release = find_release(root, key)
    figures = check_index(
        root,
        uri=locate_index(root),
        table=release.table,
        encoder=Encoder.load(registry.download_encoder(release)),
        key=key,
        rng=np.random.default_rng(load_section(root / "params.yaml", "gate", GateParams).seed),
    )
    path = locate_gate(root, key) / INDEX
    write_json(path, asdict(figures))
    return str(path)


@task(
    name="compare with the champion",
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=may_pass,
    timeout_seconds=6 * 3600,
)
def compare_champion(workspace: str, key: str) -> str:
    """Let the champion and the challenger answer the same queries; return the folder of what they scored."""
    root = Path(workspace)
    registry, release = find_release(root, key)
    folder = locate_gate(root, key)
    for name in (SCORES, CONTEST):
        (folder / name).unlink(missing_ok=True)
    champion = registry.find_champion()
    if champion is None:
        contest = Contest(champion="lost" if registry.read_history() else "none")
    else:
        contest = _compare(root, registry, champion, release, folder=folder)
    write_json(folder / CONTEST, asdict(contest))
    return str(folder)


def _compare(root: Path, registry: Registry, champion: Release, release: Release, *, folder: Path) -> Contest:
    contest = Contest(champion="unreadable", version=champion.version)
    try:
        theirs = _open_contestant(registry, champion)
        learnt = read_table(registry.fetch_evidence(champion, SPLIT_EVIDENCE), made_by="split")
        metrics = flatten_metrics(read_json(registry.fetch_evidence(champion, "metrics.json")))
    except Exception as error:  # whatever an unreadable champion raises, it is a verdict and no crash
        get_run_logger().warning("champion %s: %s", champion.version, error)
        return replace(contest, fault=" ".join(str(error).split())[:300] or type(error).__name__)
    params = load_section(root / "params.yaml", "gate", GateParams)
    scores, facts = hold_contest(
        theirs,
        _open_contestant(registry, release),
        field=Field(
            ingested=root / "data/ingested",
            split=root / "data/split",
            golden=root / "golden",
            cache=root / CACHE,
            ks=load_section(root / "params.yaml", "evaluate", EvaluateParams).k,
        ),
        learnt=learnt,
        distance=load_section(root / "params.yaml", "split", SplitParams).phash_distance,
        metrics=sorted({*params.protect, *params.improve}),
    )
    write_table(folder / SCORES, scores)
    return replace(contest, champion="read", metrics=metrics, **facts)


def _open_contestant(registry: Registry, release: Release) -> Contestant:
    """Open a release's encoder, as long as its table's vectors, and ask it once, for some faults show only then.

    Raises:
        ReleaseError: it is not the encoder that was registered.
    """
    folder = registry.download_encoder(release)
    encoder = Encoder.load(folder)
    if encoder.fingerprint != release.fingerprint:
        raise ReleaseError(
            f"Release {release.version} was registered as encoder {release.fingerprint}, but its files are "
            f"{encoder.fingerprint}; restore them."
        )
    encoder.encode([None], ["a test query"])
    return Contestant(folder=folder, encoder=encoder.shorten(release.dimensions))


@task(name="decide", timeout_seconds=3600)
def decide_release(workspace: str, key: str) -> str:
    """Judge the release by every rule, keep the decision with it, and return the verdict.

    Raises:
        IndexError_: the release is live already, and its table, published again, does not answer as it should.
        ReleaseError: what is live is no longer what the release was compared with.
    """
    root = Path(workspace)
    registry, release = find_release(root, key)
    champion = registry.find_champion()
    params = load_section(root / "params.yaml", "gate", GateParams)
    folder = locate_gate(root, key)
    evidence = _gather(root, folder)
    _check_champion(evidence.contest, champion, release)
    decision = decide(evidence, params=params)
    if champion is not None and champion.version == release.version:
        _check_live(decision, release)
        return "pass"
    document = {
        **decision.to_json(),
        "release": release.version,
        "champion": champion.version if champion else None,
        "at": datetime.now(UTC).isoformat(),
        "params": asdict(params),
    }
    write_json(folder / GATE, document)
    scores = [folder / SCORES] if (folder / SCORES).exists() else []
    tags = {
        "verdict": decision.verdict,
        "reasons": shorten_reasons([rule.name for rule in decision.rules if _hinders(rule)]),
        "champion": document["champion"] or "none",
        "at": document["at"],
        "again": str(any(rule.name.startswith("index.") for rule in decision.rules if _hinders(rule))),
        "key": make_gate_key(root, champion),
    }
    registry.record_gate(release, [folder / GATE, *scores], tags=tags)
    show_decision(document, release, metrics=read_json(root / "metrics.json"))
    return decision.verdict


def _hinders(rule: Rule) -> bool:
    return rule.binding and rule.verdict != "pass"


def _check_champion(contest: Contest, champion: Release | None, release: Release) -> None:
    """A comparison takes its time, in which a person may promote or roll back."""
    live = champion.version if champion else None
    if contest.version != live:
        met, now = (f"release {version}" if version else "none" for version in (contest.version, live))
        raise ReleaseError(
            f"Release {release.version} was compared with {met}, but {now} is live now; run `cbir-ops retrain` again."
        )


def _check_live(decision: Decision, release: Release) -> None:
    """Of a release that is live already only the index is in question: its table was published again."""
    faults = [rule.sentence for rule in decision.rules if rule.name.startswith("index.") and _hinders(rule)]
    if faults:
        raise IndexError_(
            f"Table {release.table} does not answer as it should ({'; '.join(faults)}); move it away and run "
            "`cbir-ops retrain` again."
        )


def _gather(root: Path, folder: Path) -> Evidence:
    contest = read_json(folder / CONTEST)
    return Evidence(
        metrics=flatten_metrics(read_json(root / "metrics.json")),
        statistics=read_json(root / "data/evaluated/statistics.json"),
        validation=read_json(root / "data/validated/validation.json"),
        split=read_json(root / "data/split/split.json"),
        index=IndexFigures(**read_json(folder / INDEX)),
        contest=Contest(**contest),
        pairs=list_pairs(read_table(folder / SCORES, made_by="evaluate")) if (folder / SCORES).exists() else [],
    )
