"""The commands ``cbir-ops data ...``: parse, call, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cbir.printing import AsJson, format_bytes, print_json, print_table
from cbir.workspace import find_workspace

app = typer.Typer(no_args_is_help=True, help="Import pictures, see what is there, remove some.")
SHOWN = 20  # remarks, and reasons why something was left out
COUNTS = {  # of a source, and what a table calls them
    "items": "items",
    "captioned": "with caption",
    "labelled": "with label",
    "labels": "labels",
    "relative": "relative captions",
    "missing": "files missing",
}


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="`openmoji`, or a folder of pictures.")],
    name: Annotated[str | None, typer.Option(help="Name of the source; its folder's name by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a source into data/raw; adding the same again adds nothing."""
    from cbir.sources import import_source

    report = import_source(source, name=name, raw=_find_raw())
    if as_json:
        print_json(asdict(report))
        return
    typer.echo(report.summary)
    for lines in (report.remarks, report.skipped):
        for line in lines[:SHOWN]:
            typer.echo(f"  {line}", err=True)
        if len(lines) > SHOWN:
            typer.echo(f"  and {len(lines) - SHOWN} more; --json names them all", err=True)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The sources in data/raw, and what their items say."""
    from cbir.sources.inventory import list_sources

    found = list_sources(_find_raw())
    if as_json:
        print_json([asdict(source) for source in found])
        return
    if not found:
        typer.echo("data/raw holds no source; run `cbir-ops data import openmoji`, or import a folder.")
        return
    rows = [[s.name, *(f"{getattr(s, count):,}" for count in COUNTS), format_bytes(s.bytes)] for s in found]
    print_table(["source", *COUNTS.values(), "pictures"], rows)


@app.command()
def remove(
    source: Annotated[str, typer.Argument(help="Name of a source, as `cbir-ops data list` shows it.")],
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of items; without any the whole source goes.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and leave it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a source or some of its items from data/raw; search changes with the next refresh or retrain."""
    from cbir.sources.removal import remove_items

    gone = remove_items(source, ids or [], raw=_find_raw(), dry_run=dry_run)
    if as_json:
        print_json(asdict(gone) | {"dry_run": dry_run})
        return
    verb = "would go" if dry_run else "removed"
    total = gone.items + gone.left
    typer.echo(f"{gone.name}: {gone.items:,} of {total:,} items and {gone.relative:,} relative captions {verb}")


@app.command()
def quarantine(as_json: AsJson = False) -> None:
    """The items that the last run could not use, and why."""
    from cbir.records import read_quarantine

    found = read_quarantine(find_workspace() / "data" / "ingested").to_pylist()
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("Every item can be used.")
        return
    print_table(["item", "why"], [[row["id"], row["reason"]] for row in found])


def _find_raw() -> Path:
    return find_workspace() / "data" / "raw"
