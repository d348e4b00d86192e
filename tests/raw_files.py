"""Small pictures in folders, as tests of imports put them together."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image


def png(colour: str = "red") -> bytes:
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def put(folder: Path, name: str, data: bytes | None = None) -> None:
    """Write a file, a picture where ``data`` is left out, and the folders above it."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(png() if data is None else data)
