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
NEIGHBOURS = 8  # of a local binary pattern, at a radius of one pixel
PATTERNS = NEIGHBOURS + 2  # those that are uniform, by their ones, and all others
GABOR_SCALES = ((2.0, 4.0), (4.0, 8.0), (6.0, 16.0))  # width of the envelope and wavelength, pixels
GABOR_ANGLES = 6
ENERGIES = 2 * len(GABOR_SCALES) * GABOR_ANGLES
STAGES = 4  # of a visual tower, that its summary describes
GRID_SIDE = 3
GRID_CELLS = 1 + GRID_SIDE**2
Blocks = tuple[tuple[int, float], ...]  # width and weight of each


@dataclass(frozen=True, kw_only=True)
class VisualShape:
    """``mean``, ``deviation``: of pixels in [0, 1], which the tower wants taken out. ``width``: of a grid token.

    The blocks of the summary are the pooled token, how channels relate in the stages before the last, where it is
    ``textured`` local binary patterns and Gabor energies, mean and deviation of stages, and last the colour histogram.
    """

    image_size: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    width: int
    blocks: Blocks
    textured: bool = False

    @property
    def summary(self) -> int:
        """Width of the summary."""
        return sum(width for width, _ in self.blocks)

    @property
    def stages_from(self) -> int:
        """Where in the summary the stages begin, and after them the colours."""
        return self.summary - sum(width for width, _ in self.blocks[-STAGES - 1 :])

    @property
    def signals(self) -> dict[str, slice]:
        """Where in the summary lies what says of the picture what is needed to compare it, with no training."""
        places = {"tower": slice(0, self.blocks[0][0]), "histogram": slice(self.summary - COLOURS, self.summary)}
        if self.textured:
            energies = self.stages_from - ENERGIES
            places |= {"patterns": slice(energies - PATTERNS, energies), "gabor": slice(energies, self.stages_from)}
        return places


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
