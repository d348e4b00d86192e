"""What a pair of towers takes in and puts out: sizes, pixel statistics, and the blocks of the two summaries."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cbir.errors import TowerError
from cbir.records import write_json

FILE = "towers.json"
COLOUR_LEVELS = 7  # a channel
COLOURS = COLOUR_LEVELS**3
GRID_SIDE = 3
GRID_CELLS = 1 + GRID_SIDE**2
Blocks = tuple[tuple[int, float], ...]  # width and weight of each


@dataclass(frozen=True, kw_only=True)
class VisualShape:
    """``mean``, ``deviation``: of pixels in [0, 1], which the tower wants taken out. ``width``: of a grid token.

    The blocks of the summary are the pooled token, cells of a map (of width 0 where there are none), mean and deviation
    of stages, and last the colour histogram.
    """

    image_size: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    width: int
    blocks: Blocks

    @property
    def summary(self) -> int:
        """Width of the summary."""
        return sum(width for width, _ in self.blocks)


@dataclass(frozen=True, kw_only=True)
class TextShape:
    """``width``: of a token. The first block of the summary is the text as a whole, of the same width."""

    width: int
    blocks: Blocks
    max_tokens: int

    @property
    def summary(self) -> int:
        """Width of the summary."""
        return sum(width for width, _ in self.blocks)


@dataclass(frozen=True, kw_only=True)
class TowerShapes:
    """Of both towers."""

    visual: VisualShape
    text: TextShape

    def save(self, folder: Path) -> None:
        """Write them beside the towers."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> TowerShapes:
        """Read them.

        Raises:
            TowerError: the file is missing.
        """
        if not (folder / FILE).exists():
            raise TowerError(f"{folder / FILE} is missing; run `dvc repro train`, or `dvc pull`.")
        document = json.loads((folder / FILE).read_text(encoding="utf-8"))
        visual, text = document["visual"], document["text"]
        for part in (visual, text):
            part["blocks"] = tuple((width, weight) for width, weight in part["blocks"])
        for name in ("mean", "deviation"):
            visual[name] = tuple(visual[name])
        return cls(visual=VisualShape(**visual), text=TextShape(**text))
