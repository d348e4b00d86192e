"""The commands ``cbir-ops releases ...``, ``lineage`` and ``repro``: parse, call, print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cbir.printing import AsJson, format_bytes, print_json, print_table
from cbir.texts import flatten_line
from cbir.workspace import find_workspace

app = typer.Typer(no_args_is_help=True, help="See, promote, roll back, keep and clean up releases.")

Version = Annotated[str, typer.Argument(help="Version of a release, or an alias such as champion.")]
Reason = Annotated[str, typer.Option(help="Why, for who reads the history later.")]
SHOWN = re.compile(r"[^.]+\.fused(_both)?\.(map|hit@1|hit@10)|counts\..*")  # figures that a terminal has room for


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every release, the newest first."""
    from cbir.releases import KEY_METRICS, list_entries

    entries = list_entries(find_workspace())
    if as_json:
        print_json([vars(entry) for entry in entries])
        return
    rows = [
        [
            entry.version,
            " ".join([*entry.aliases, *(["pinned"] if entry.pinned is not None else [])]),
            f"{entry.made:%Y-%m-%d %H:%M}",
            entry.data_revision[:8],
            (entry.git_commit or "-")[:8] + ("*" if entry.git_commit and entry.git_dirty else ""),
            "-" if entry.rows is None else f"{entry.rows:,}",
            "yes" if entry.table else "no",
            *(_percent(entry.metrics.get(metric)) for metric in KEY_METRICS.values()),
        ]
        for entry in entries
    ]
    print_table(["release", "", "made, UTC", "data", "commit", "rows", "table", *KEY_METRICS], rows)


@app.command()
def show(
    release: Annotated[str, typer.Argument(help="Version, or an alias such as champion.")] = "champion",
    as_json: AsJson = False,
) -> None:
    """One release: what it was made from, its figures, what was done to it."""
    from cbir.releases import describe_release

    document = describe_release(find_workspace(), release)
    if as_json:
        print_json(document)
        return
    metrics, history = document.pop("metrics"), document.pop("history")
    print_table(["release", document.pop("version")], [[name, _word(value)] for name, value in document.items()])
    shown = {name: value for name, value in sorted(metrics.items()) if SHOWN.fullmatch(name)}
    print_table(["figure", ""], [[name, _figure(name, value)] for name, value in shown.items()])
    _print_history(history)


@app.command()
def diff(first: Version, second: Version, as_json: AsJson = False) -> None:
    """What differs from one release to another: facts, params, figures."""
    from cbir.releases import compare_releases

    document = compare_releases(find_workspace(), first, second)
    if as_json:
        print_json(document)
        return
    for part in ("facts", "params"):
        rows = [[name, _word(old), _word(new)] for name, (old, new) in document[part].items() if old != new]
        print_table([part, first, second], rows)
    rows = [
        [name, _figure(name, old), _figure(name, new), _difference(name, old, new)]
        for name, (old, new) in document["metrics"].items()
        if SHOWN.fullmatch(name)
    ]
    print_table(["figure", first, second, "difference"], rows)


@app.command()
def log(as_json: AsJson = False) -> None:
    """Everything that was done to releases, oldest first."""
    from cbir.registry import open_registry

    history = open_registry(find_workspace()).read_log()
    if as_json:
        print_json(history)
    else:
        _print_history(history)


@app.command()
def promote(version: Version, reason: Reason, as_json: AsJson = False) -> None:
    """Make a release live on your own account; its table must be whole and of its encoder."""
    from cbir.promotion import promote_release

    move = promote_release(find_workspace(), version=version, reason=reason, now=datetime.now(UTC))
    _print_move(asdict(move), as_json=as_json)


@app.command()
def rollback(
    reason: Reason,
    to: Annotated[str | None, typer.Option(help="Version; the one that was live before, by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Go back: model and table together, by one alias move."""
    from cbir.promotion import roll_back

    move = roll_back(find_workspace(), to=to, reason=reason, now=datetime.now(UTC))
    _print_move(asdict(move), as_json=as_json)


@app.command()
def pin(version: Version, reason: Reason = "", as_json: AsJson = False) -> None:
    """Keep a release from being cleaned up."""
    from cbir.promotion import pin_release

    version = pin_release(find_workspace(), version=version, reason=reason, now=datetime.now(UTC))
    _print_line({"version": version, "pinned": True}, f"Release {version} is pinned.", as_json=as_json)


@app.command()
def unpin(version: Version, reason: Reason = "", as_json: AsJson = False) -> None:
    """Let a release be cleaned up again."""
    from cbir.promotion import unpin_release

    version = unpin_release(find_workspace(), version=version, reason=reason, now=datetime.now(UTC))
    _print_line({"version": version, "pinned": False}, f"Release {version} is no longer pinned.", as_json=as_json)


@app.command()
def gc(
    keep: Annotated[int | None, typer.Option(help="How many of the newest; release.keep by default.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and leave it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove old releases and their tables; never one that is live, wanted, or could be rolled back to."""
    from cbir.retention import clean_up, plan_cleaning

    workspace, now = find_workspace(), datetime.now(UTC)
    removals = plan_cleaning(workspace, keep=keep, now=now)
    gone = removals if dry_run else clean_up(workspace, removals, now=now)
    freed = sum(removal.table_bytes + removal.model_bytes for removal in gone)
    if as_json:
        rows = [{name: value for name, value in vars(removal).items() if name != "release"} for removal in gone]
        print_json({"dry_run": dry_run, "bytes": freed, "removed": rows})
        return
    table = [
        [
            r.version,
            r.table or "-",
            format_bytes(r.table_bytes),
            format_bytes(r.model_bytes) if r.release else "-",
            r.why,
        ]
        for r in gone
    ]
    print_table(["release", "table", "size", "model", "why"], table)
    typer.echo(f"{'Would free' if dry_run else 'Freed'} {format_bytes(freed)}.")


def lineage(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of a hit, as `cbir-ops query` prints it.")],
    as_json: AsJson = False,
) -> None:
    """Where a hit of the live index comes from, down to the source file."""
    from cbir.lineage import trace_item

    document = trace_item(find_workspace(), id_)
    if as_json:
        print_json(document)
        return
    print_table(["", id_], [[name, _word(value)] for name, value in _flatten(document) if name != "id"])


def repro(
    verify: Annotated[str, typer.Option(metavar="VERSION", help="Version of the release to make again, or an alias.")],
    tolerance: Annotated[float, typer.Option(min=0, help="How far a figure may be off.")] = 0.005,
    as_json: AsJson = False,
) -> None:
    """Make a release again from its commit and data, in a clone; exit status 1 where it is not the same."""
    from flows.verification import hold, verify_release

    def say(line: str) -> None:
        typer.echo(line, err=True)

    rows = verify_release(find_workspace(), version=verify, tolerance=tolerance, say=say)
    if as_json:
        print_json({"version": verify, "holds": hold(rows), "rows": [vars(row) for row in rows]})
    else:
        print_table(
            ["stage", "", "expected", "got", "tolerance", "verdict"], [list(vars(row).values()) for row in rows]
        )
        typer.echo(f"Release {verify} {'can be made again' if hold(rows) else 'is not the same'}.")
    raise typer.Exit(0 if hold(rows) else 1)


def _print_line(value: dict[str, Any], line: str, *, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        typer.echo(line)


def _print_move(move: dict[str, Any], *, as_json: bool) -> None:
    version, before = move["version"], move["before"]
    after = f", after release {before}" if before else ""
    line = f"Release {version} is live with table {move['table']}{after}; it took {move['seconds']:.2f} s."
    _print_line(move, f"Release {version} is live already." if before == version else line, as_json=as_json)


def _print_history(history: Sequence[dict[str, str]]) -> None:
    rows = [[entry["at"][:19], entry["action"], entry["version"], entry["by"], entry["why"]] for entry in history]
    print_table(["at, UTC", "", "release", "by", "why"], rows)


def _flatten(document: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    return [
        line
        for name, value in document.items()
        for line in (_flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)])
    ]


def _word(value: Any) -> str:
    return "-" if value is None else flatten_line(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _is_count(name: str) -> bool:
    return name.startswith("counts.") or name.endswith(".queries")


def _figure(name: str, value: float | None) -> str:
    return f"{value:,.0f}" if value is not None and _is_count(name) else _percent(value)


def _difference(name: str, old: float | None, new: float | None) -> str:
    if old is None or new is None:
        return "-"
    return f"{new - old:+,.0f}" if _is_count(name) else f"{100 * (new - old):+.1f}"
