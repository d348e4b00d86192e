"""What a label's name says: words that people search with, even where no caption has them.

Folders by class have no captions. The names of labels lend words to items of training that have none; what is searched
never gets them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

_BETWEEN_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|[\W_]+")


def name_label(label: str) -> str:
    """The words of a label's last level: ``animals/bigCat_wild`` is called ``big cat wild``."""
    last = label.rstrip("/").rpartition("/")[2]
    return " ".join(word for word in _BETWEEN_WORDS.split(last) if word).lower() or label


def list_names(labels: Sequence[Sequence[str] | None]) -> list[list[str]]:
    """What the labels of each item are called, each name once."""
    return [sorted({name_label(label) for label in row or ()}) for row in labels]


def lend_names(items: pa.Table) -> pa.Table:
    """``items`` (captions, labels), where one that has labels and no caption has their names for its caption."""
    rows = zip(items["captions"].to_pylist(), list_names(items["labels"].to_pylist()), strict=True)
    captions = [texts or ([", ".join(names)] if names else []) for texts, names in rows]
    place = items.schema.get_field_index("captions")
    return items.set_column(place, "captions", pa.array(captions, pa.list_(pa.string())))
