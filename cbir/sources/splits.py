"""Which names of splits are understood, of folders and in metadata."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def name_split(value: Any) -> str | None:
    """The split that ``value`` names, or None."""
    return NAMES.get(value.strip().lower()) if isinstance(value, str) else None


def find_split_folders(file_names: Iterable[str]) -> dict[str, str | None]:
    """The split of each top folder, where all of them are named as splits; else none is.

    Where there is no test folder, validation is the test, as of CIRR; training or test alone divide nothing.
    """
    tops = {name.split("/")[0] for name in file_names if "/" in name}
    named = {top: name_split(top) for top in sorted(tops)}
    if None in named.values():
        return {}
    if "test" not in named.values():
        named = {top: "test" if split == "validation" else split for top, split in named.items()}
    return named if {"train", "test"} <= set(named.values()) else dict.fromkeys(named)
