"""How a person makes a release live, or goes back to an earlier one: model and table together, by one alias move."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cbir.errors import IndexError_, ReleaseError
from cbir.index import Index
from cbir.registry import Registry, Release, open_registry
from cbir.registry.history import PIN, PROMOTE, ROLLBACK, UNPIN, stack_champions
from cbir.registry.release import ROWS
from cbir.workspace import locate_index

REMEDY = (
    "choose another (`cbir-ops releases list`), or check out its git commit, run `dvc checkout`, move the table away "
    "and run `cbir-ops retrain`."
)


@dataclass(frozen=True, kw_only=True)
class Move:
    """What was live before and is now; ``seconds``: what the alias and the history took."""

    before: str | None
    version: str
    table: str
    seconds: float


def check_table(release: Release, *, uri: str) -> None:
    """Refuse a release whose table is not there, or not whole, or of another encoder.

    Raises:
        IndexError_: so it is.
    """
    try:
        index = Index.open(uri=uri, table=release.table)
    except IndexError_:
        raise IndexError_(
            f"Release {release.version} cannot go live: its table {release.table} is missing in {uri}; {REMEDY}"
        ) from None
    rows = release.tags.get(ROWS, str(index.rows))
    if index.fingerprint != release.fingerprint or str(index.rows) not in {rows, *_list_refreshed(release)}:
        raise IndexError_(
            f"Release {release.version} cannot go live: its table {release.table} has {index.rows} rows of encoder "
            f"{index.fingerprint}, not {rows} of {release.fingerprint}; {REMEDY}"
        )


def _list_refreshed(release: Release) -> list[str]:
    """Rows of a table before and after its last refresh, which may have been killed between."""
    facts = json.loads(release.refresh or "{}")
    return [str(facts[name]) for name in ("before", "rows") if name in facts]


def promote_release(workspace: Path, *, version: str, reason: str, now: datetime) -> Move:
    """Make a release live that nothing speaks against, on a person's account.

    Raises:
        ReleaseError: there is no such release or no reason, or the gate did not let it pass.
        IndexError_: its table is missing or does not match.
        TowerError: its encoder cannot be loaded.
    """
    from cbir.smoke import ask_once  # here, for it imports an encoder

    registry = open_registry(workspace)
    release = registry.get_version(version)
    reason = _check_reason(reason)
    _check_verdict(release, known=release.gate.get("verdict") is None and _was_live(registry, release))
    check_table(release, uri=locate_index(workspace))
    ask_once(workspace, registry=registry, release=release)
    return _move(registry, release, action=PROMOTE, reason=reason, now=now)


def roll_back(workspace: Path, *, to: str | None, reason: str, now: datetime) -> Move:
    """Make the release live again that was so before, or ``to``.

    Raises:
        ReleaseError: there is no such release, no reason, or it was never live and the gate did not let it pass.
        IndexError_: its table is missing or does not match.
    """
    registry = open_registry(workspace)
    release = registry.get_version(to if to is not None else find_previous(registry))
    reason = _check_reason(reason)
    _check_verdict(release, known=_was_live(registry, release))
    check_table(release, uri=locate_index(workspace))
    registry.download_encoder(release)
    return _move(registry, release, action=ROLLBACK, reason=reason, now=now)


def find_previous(registry: Registry) -> str:
    """Version of the release that was live before the one that is, and still exists.

    Raises:
        ReleaseError: there is none, or the history does not say what is live.
    """
    champion = registry.get_champion()
    stack = stack_champions(registry.read_history())
    if stack[-1:] != [champion.version]:
        last = f"release {stack[-1]}" if stack else "nothing"
        raise ReleaseError(
            f"Release {champion.version} is live, but the history ends with {last}: a move was cut short, or the alias "
            "was moved by hand; say which release to go back to with --to."
        )
    known = {release.version for release in registry.list_releases()}
    before = [version for version in stack[:-1] if version in known and version != champion.version]
    if not before:
        others = ", ".join(sorted(known - {champion.version}, key=int))
        remedy = f"`releases promote` takes another, of {others}" if others else "`cbir-ops retrain` makes another"
        raise ReleaseError(f"No release was live before release {champion.version}; {remedy}.")
    return before[-1]


def pin_release(workspace: Path, *, version: str, reason: str, now: datetime) -> str:
    """Keep a release from being cleaned up; return its number.

    Raises:
        ReleaseError: there is no such release.
    """
    registry = open_registry(workspace)
    release = registry.get_version(version)
    registry.pin(release, reason=reason)
    registry.append_log(release, action=PIN, reason=reason, now=now)
    return release.version


def unpin_release(workspace: Path, *, version: str, reason: str, now: datetime) -> str:
    """Let a release be cleaned up again; return its number.

    Raises:
        ReleaseError: there is no such release, or it is not pinned.
    """
    registry = open_registry(workspace)
    release = registry.get_version(version)
    if not release.pinned:
        raise ReleaseError(f"Release {release.version} is not pinned; see `cbir-ops releases list`.")
    registry.unpin(release)
    registry.append_log(release, action=UNPIN, reason=reason, now=now)
    return release.version


def _was_live(registry: Registry, release: Release) -> bool:
    return release.version in {entry["version"] for entry in registry.read_history()}


def _check_verdict(release: Release, *, known: bool) -> None:
    """Refuse a release that the gate did not let pass, unless it is ``known``."""
    number, verdict = release.version, release.gate.get("verdict")
    if known or verdict == "pass":
        return
    if verdict is None:
        raise ReleaseError(f"The gate has not decided on release {number}; run `cbir-ops retrain` first.")
    raise ReleaseError(
        f"The gate's verdict on release {number} is {verdict}; to promote it on your own account: "
        f'`cbir-ops gate --override --release {number} --by NAME --reason "..."`.'
    )


def _check_reason(reason: str) -> str:
    if not reason.strip():
        raise ReleaseError('A reason is needed, for who reads the history later: --reason "...".')
    return reason.strip()


def _move(registry: Registry, release: Release, *, action: str, reason: str, now: datetime) -> Move:
    champion = registry.find_champion()
    start = time.perf_counter()
    registry.promote(release, reason=reason, now=now, action=action)
    seconds = time.perf_counter() - start
    before = champion.version if champion else None
    return Move(before=before, version=release.version, table=release.table, seconds=round(seconds, 3))
