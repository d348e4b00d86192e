"""How image bytes become RGB pictures of one size."""

from __future__ import annotations

import io
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cbir.errors import ImageError

MAX_PIXELS = 100_000_000
_GREY_TOPS = {False: (65_535.0,), True: (1.0, 255.0, 65_535.0)}  # integers; floats have no range of their own
_LIFTING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """The square that a picture is fitted into: its side in pixels, and the colour of what the picture leaves."""

    size: int = 224
    background: str = "white"


PLAIN = Canvas()


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, background: str = "white") -> Image.Image:
    """Decode ``data`` in full and return it upright, as RGB, on ``background`` where it was transparent.

    Of an animation the first frame is taken; 16-bit greys are scaled to 8 bits.

    Raises:
        ImageError: empty, truncated, not an image, or more than ``max_pixels``.
    """
    if not data:
        raise ImageError("the file is empty")
    _lift_limit(max_pixels)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        if image.width * image.height > max_pixels:
            raise ImageError(f"{image.width} x {image.height} pixels are more than {max_pixels:,}")
        image.load()
        return _flatten(ImageOps.exif_transpose(image), background=background)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"the picture has more than {max_pixels:,} pixels") from None
    except UnidentifiedImageError:
        raise ImageError("the file is not an image") from None
    except Exception as error:  # of damaged bytes Pillow's decoders raise anything, TypeError and struct.error too
        raise ImageError(f"the picture cannot be decoded: {error}") from None


def _lift_limit(max_pixels: int) -> None:
    """Keep Pillow, which refuses twice its own limit, from refusing what ``max_pixels`` allows.

    Its limit is one for the process, and some decoders ask it, too, so that it cannot be passed by. It is raised, never
    lowered, and only where more is asked for than it lets through.
    """
    with _LIFTING:
        if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)


def _flatten(image: Image.Image, *, background: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_grey(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, background)
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _scale_grey(image: Image.Image) -> Image.Image:
    """Wider greys as 8 bits, by the range of their kind: two pictures of one kind stay comparable."""
    grey = np.nan_to_num(np.asarray(image).astype(np.float64))
    high = next((top for top in _GREY_TOPS[image.mode == "F"] if grey.max(initial=0) <= top), grey.max(initial=0))
    return Image.fromarray(np.clip(np.rint(grey * (255 / high)), 0, 255).astype(np.uint8))


def fit_square(image: Image.Image, *, size: int, background: str = "white") -> Image.Image:
    """Fit ``image`` into a square of ``size`` pixels without cropping, padded with ``background``."""
    return ImageOps.pad(image, (size, size), method=Image.Resampling.BICUBIC, color=background)


def fit_image(data: bytes, canvas: Canvas) -> Image.Image:
    """Decode ``data`` and fit it into ``canvas``.

    Raises:
        ImageError: as ``decode_image``.
    """
    image = decode_image(data, background=canvas.background)
    return fit_square(image, size=canvas.size, background=canvas.background)


def make_thumbnail(image: Image.Image, *, side: int) -> bytes:
    """``image`` as a JPEG, no side longer than ``side`` pixels."""
    image = image.copy()
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def encode_png(image: Image.Image) -> bytes:
    """``image`` as PNG bytes, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def decode_png(data: bytes) -> Image.Image:
    """What ``encode_png`` wrote."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def load_query_image(path: Path, canvas: Canvas = PLAIN) -> Image.Image:
    """Read a picture to search with, fitted into ``canvas``, which should be that of the items.

    Raises:
        ImageError: it is missing or cannot be used.
    """
    try:
        data = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}); give a picture that you may read.") from None
    if data is None:
        raise ImageError(f"{path} is not a file; give the path of a picture.")
    try:
        return fit_image(data, canvas)
    except ImageError as error:
        raise ImageError(f"{path}: {error}; give a PNG, JPEG, WebP or GIF that opens in a viewer.") from None
