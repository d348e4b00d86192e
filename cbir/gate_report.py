"""How a decision of the gate reads: as lines for a terminal, and as a table for a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cbir.errors import ReleaseError
from cbir.records import read_json
from cbir.registry import Registry, Release, open_registry

OUTCOMES = {"pass": "promoted", "fail": "refused", "inconclusive": "inconclusive"}
LONGEST = 1000  # characters of the reasons; an override adds its own, and stores of MLflow differ in what a tag holds
SIGNS = {"pass": "pass", "fail": "FAIL", "inconclusive": "open"}
TOLD = "told"  # sign of a rule that does not count


def read_decision(workspace: Path, *, version: str | None) -> dict[str, Any]:
    """The last decision on a release: the one with this number, or else the challenger, or else the champion.

    Raises:
        ReleaseError: there is no such release or no decision, or it cannot be read.
    """
    registry = open_registry(workspace)
    release = _pick_release(registry, version)
    if not registry.read_gate_tags(release):
        raise ReleaseError(f"The gate has not decided on release {release.version}; run `cbir-ops retrain`.")
    return dict(read_json(registry.fetch_evidence(release, "gate.json")))


def _pick_release(registry: Registry, version: str | None) -> Release:
    if version is not None:
        return registry.get_version(version)
    return registry.find_challenger() or registry.get_champion()


def format_decision(document: dict[str, Any]) -> str:
    """A line a rule, those that count and do not hold first, then what to do."""
    rules = order_rules(document["rules"])
    head = (
        f"Release {document['release']} against {_name(document['champion'])}: {OUTCOMES[document['verdict']]} "
        f"({document['at'][:19]})"
    )
    width = max(len(rule["name"]) for rule in rules)
    lines = [head, ""]
    lines += [f"{sign_rule(rule)}  {rule['name']:<{width}}  {rule['sentence']}" for rule in rules]
    return "\n".join(lines)


def order_rules(rules: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that count and do not hold, those that count, and those that are told."""
    return sorted(rules, key=lambda rule: (sign_rule(rule) == TOLD, rule["verdict"] == "pass"))


def sign_rule(rule: dict[str, Any]) -> str:
    """What came of a rule, in a word; earlier versions did not say whether one is binding, all were."""
    return SIGNS[rule["verdict"]] if rule.get("binding", True) else TOLD


def format_markdown(document: dict[str, Any], *, link: str | None) -> str:
    """What kept a release from going live, and a table of all rules, for Prefect's pages.

    ``link`` is the release's page in MLflow.
    """
    name = f"release {document['release']}"
    rows = [
        "| {} | {} | {} | {} | {} | {} |".format(
            sign_rule(rule),
            rule["name"],
            _figure(rule["observed"]),
            "" if rule["low"] is None else f"{rule['low']:+.3f} to {rule['high']:+.3f}",
            _figure(rule["threshold"]),
            rule["sentence"].replace("|", "\\|"),
        )
        for rule in document["rules"]
    ]
    return "\n".join(
        [
            f"# {OUTCOMES[document['verdict']]}: {f'[{name}]({link})' if link else name}",
            f"against {_name(document['champion'])}, {document['at'][:19]}. The same in a terminal: "
            f"`cbir-ops gate --explain --release {document['release']}`",
            "",
            *(f"- {reason}" for reason in list_reasons(document)),
            "",
            "| | rule | observed | interval | threshold | |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )


def list_reasons(document: dict[str, Any]) -> list[str]:
    """The sentences of the rules that kept a release from going live."""
    return [
        f"{rule['name']}: {rule['sentence']}"
        for rule in document["rules"]
        if rule["binding"] and rule["verdict"] != "pass"
    ]


def shorten_reasons(names: Sequence[str]) -> str:
    """Names of the rules that kept a release from going live, as one line that a tag of MLflow holds."""
    line = ", ".join(names)
    if len(line) <= LONGEST:
        return line
    shown = [name for n, name in enumerate(names) if len(", ".join(names[: n + 1])) <= LONGEST]
    return f"{', '.join(shown)} and {len(names) - len(shown)} more"


def _name(champion: str | None) -> str:
    return f"release {champion}" if champion else "no champion"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.3f}"
