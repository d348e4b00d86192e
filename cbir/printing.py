"""How commands print: tables for a terminal or a log, and JSON for who reads on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from tabulate import tabulate

WIDTH = 200  # of a table where the output is no terminal
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: Any) -> None:
    """Print ``value`` as JSON, moments in ISO format."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=datetime.isoformat))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns without lines between them, and a blank line after."""
    console = Console(width=None if Console().is_terminal else WIDTH, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)
    console.print()


def align_columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1) -> list[str]:
    """Lines of columns, of which the first ``names`` are words and the others figures, which end below one another."""
    sides = ["left"] * names + ["right"] * (len(header) - names)
    return tabulate(rows, header, tablefmt="plain", colalign=sides, disable_numparse=True).splitlines()


def format_bytes(size: int) -> str:
    """A size in megabytes."""
    return f"{size / 1e6:,.1f} MB"
