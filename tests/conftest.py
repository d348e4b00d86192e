"""Pictures and workspaces that several tests share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 70, 220), "yellow": (240, 210, 40)}


def draw(colour: tuple[int, int, int], *, seed: int) -> Image.Image:
    """A coloured square somewhere on a noisy ground."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(200, 255, (96, 96, 3), dtype=np.uint8)
    x, y = rng.integers(0, 48, 2)
    pixels[y : y + 44, x : x + 44] = colour
    return Image.fromarray(pixels)


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A folder of 48 pictures with a metadata.jsonl."""
    folder = tmp_path / "catalogue"
    folder.mkdir()
    rows = []
    for n in range(48):
        name = list(COLOURS)[n % 4]
        draw(COLOURS[name], seed=n).save(folder / f"{n:02d}.png")
        rows.append({"file_name": f"{n:02d}.png", "caption": f"a {name} square, number {n}", "label": name, "price": n})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder
