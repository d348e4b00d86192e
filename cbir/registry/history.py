"""What was done to releases, and from it which one a rollback goes back to."""

from __future__ import annotations

from collections.abc import Sequence

Entry = dict[str, str]  # version, at, by, why, action; entries of before there were actions lack the last

PROMOTE, OVERRIDE, ROLLBACK = "promote", "override", "rollback"
PIN, UNPIN, GC, REFRESH = "pin", "unpin", "gc", "refresh"
MOVES = (PROMOTE, OVERRIDE, ROLLBACK)  # of the alias


def read_action(entry: Entry) -> str:
    """What an entry says was done."""
    return entry.get("action", PROMOTE)


def select_moves(log: Sequence[Entry]) -> list[Entry]:
    """The entries that changed what is live, oldest first."""
    return [entry for entry in log if read_action(entry) in MOVES]


def stack_champions(moves: Sequence[Entry]) -> list[str]:
    """Versions one on the other, the live one last: a promotion puts one on top, a rollback takes off what was wrong.

    So a second rollback goes further back, and never forward to what was rolled back from.
    """
    stack: list[str] = []
    for entry in moves:
        version = entry["version"]
        if read_action(entry) == ROLLBACK and version in stack:
            del stack[len(stack) - stack[::-1].index(version) :]
        elif stack[-1:] != [version]:
            stack.append(version)
    return stack
