"""How long work shows that it goes on: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

EVERY = 10.0  # seconds between two lines
T = TypeVar("T")


def follow(rows: Iterable[T], *, description: str, total: int | None = None, quiet: bool = False) -> Iterator[T]:
    """Yield ``rows``, and show on stderr how many of ``total`` are done; nothing of it with ``quiet``."""
    console = Console(stderr=True, quiet=quiet)
    if console.is_terminal or quiet:
        yield from track(rows, total=total, description=description, console=console)
        return
    told = time.monotonic()
    for done, row in enumerate(rows):
        if time.monotonic() - told > EVERY:
            of = "" if total is None else f" of {total}"
            print(f"{description}: {done}{of}", file=sys.stderr, flush=True)
            told = time.monotonic()
        yield row
