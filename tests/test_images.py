"""Pictures of every kind become upright RGB of one size, and nothing but ImageError comes out."""

from __future__ import annotations

import contextlib
import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cbir.errors import ImageError
from cbir.images import decode_image, decode_png, encode_png, fit_square
from cbir.texts import clean_caption, flatten_line


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (257, 1), (32_896, 128), (65_535, 255)])
def test_a_16_bit_grey_keeps_its_brightness(value: int, grey: int) -> None:
    image = Image.fromarray(np.full((4, 4), value, dtype=np.uint16))
    assert decode_image(encode(image, "PNG")).getpixel((0, 0)) == (grey, grey, grey)


def test_a_float_picture_between_0_and_1_is_not_black() -> None:
    image = Image.fromarray(np.full((4, 4), 0.6, dtype=np.float32))
    assert decode_image(encode(image, "TIFF")).getpixel((0, 0)) == (153, 153, 153)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data).getpixel((0, 0)) == (255, 0, 0)


def test_a_picture_is_padded_and_not_cropped() -> None:
    fitted = fit_square(Image.new("RGB", (100, 50), "red"), size=40, background="white")
    assert fitted.size == (40, 40)
    assert fitted.getpixel((20, 2)) == (255, 255, 255)
    assert fitted.getpixel((0, 20)) == (255, 0, 0)


def test_png_gives_back_the_same_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(decode_png(encode_png(Image.fromarray(pixels)))), pixels)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF"]),
    cut=st.floats(0, 1),
    spot=st.floats(0, 0.99),
    byte=st.binary(min_size=1, max_size=4),
)
def test_damaged_bytes_raise_nothing_but_an_image_error(kind: str, cut: float, spot: float, byte: bytes) -> None:
    data = encode(Image.new("RGB", (20, 20), "red"), kind)
    at = int(len(data) * spot)
    damaged = (data[:at] + byte + data[at + len(byte) :])[: int(len(data) * cut)]
    with contextlib.suppress(ImageError):
        assert decode_image(damaged, max_pixels=10_000).mode == "RGB"


def test_a_tiff_whose_offset_is_of_a_wrong_kind_raises_an_image_error() -> None:
    data = bytearray(encode(Image.new("RGB", (8, 8)), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    entries = range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12)
    offset = next(at for at in entries if struct.unpack_from("<H", data, at)[0] == 273)  # StripOffsets
    struct.pack_into("<HI", data, offset + 2, 2, 1)  # is text now; Pillow raises TypeError
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_image(bytes(data))


def test_our_limit_of_pixels_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses twice as many
    data = encode(Image.new("RGB", (100, 100)), "PNG")
    assert decode_image(data, max_pixels=10_000).size == (100, 100)
    with pytest.raises(ImageError, match="100 x 100 pixels are more than 9,999"):
        decode_image(data, max_pixels=9_999)


def test_the_limit_of_pillow_stays_where_it_refuses_nothing_that_ours_allows() -> None:
    before = Image.MAX_IMAGE_PIXELS
    decode_image(encode(Image.new("RGB", (8, 8)), "PNG"))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("  a\tred\n fruit ", "a red fruit"),
        ("salt &amp; pepper", "salt & pepper"),
        ("\ufeffcafe\u0301", "café"),
        ("\x00", ""),
    ],
)
def test_captions_are_cleaned(text: str, clean: str) -> None:
    assert clean_caption(text) == clean


def test_a_line_for_a_terminal_cannot_steer_it() -> None:
    assert flatten_line("a \x1b[31mred\x1b[0m circle\nbelow\t it ") == "a [31mred [0m circle below it"
