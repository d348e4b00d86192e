"""Classical descriptors see what their papers say: texture whatever its direction, and where parts of a picture lie."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import COLOURS, draw
from PIL import Image

from cbir.classical import (
    GABOR_ANGLES,
    GABOR_SCALES,
    Keypoints,
    Verifier,
    count_agreeing,
    describe_pictures,
    find_keypoints,
    score_energies,
    take_energies,
    take_patterns,
)
from cbir.images import encode_png

BLANK = np.full((224, 224), 255, np.uint8)


@pytest.fixture
def scene() -> np.ndarray:
    """Grey rectangles of many sizes: corners to hold on to."""
    rng = np.random.default_rng(0)
    picture = BLANK.copy()
    for x, y, width, height, shade in rng.integers(10, 200, (40, 5)):
        picture[y : y + height // 4, x : x + width // 4] = shade
    return picture


def draw_stripes(*, period: int, upright: bool) -> np.ndarray:
    wave = np.where(np.arange(224) % period < period // 2, 255, 0).astype(np.uint8)
    return np.tile(wave, (224, 1)) if upright else np.tile(wave, (224, 1)).T


def test_a_quarter_turn_changes_no_pattern(scene: np.ndarray) -> None:
    inner = np.pad(scene[4:-4, 4:-4], 4, constant_values=255)
    assert take_patterns(np.rot90(inner)) == pytest.approx(take_patterns(inner), abs=1e-3)
    assert take_patterns(inner) @ take_patterns(inner) == pytest.approx(1.0)


def test_stripes_answer_to_the_filter_of_their_direction() -> None:
    for upright in (True, False):
        energy = take_energies(draw_stripes(period=14, upright=upright))[: len(GABOR_SCALES) * GABOR_ANGLES]
        angle = int(energy.reshape(len(GABOR_SCALES), GABOR_ANGLES)[1].argmax())
        assert angle == (0 if upright else GABOR_ANGLES // 2)


def test_a_plain_ground_has_no_texture_and_no_keypoints() -> None:
    assert take_energies(BLANK) == pytest.approx(np.zeros(2 * len(GABOR_SCALES) * GABOR_ANGLES), abs=1e-5)
    assert len(find_keypoints(BLANK).place_K2) == 0
    assert count_agreeing(find_keypoints(BLANK), find_keypoints(BLANK)) == 0


def test_keypoints_agree_when_a_picture_is_turned_and_not_when_it_is_another(scene: np.ndarray) -> None:
    turned = np.asarray(Image.fromarray(scene).rotate(20, fillcolor=255, resample=Image.Resampling.BICUBIC))
    rng = np.random.default_rng(1)
    other = rng.integers(0, 255, (56, 56), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    mine = find_keypoints(scene)
    assert count_agreeing(mine, find_keypoints(turned)) > 20
    assert count_agreeing(mine, find_keypoints(other)) == 0


def test_the_first_of_a_ranking_are_put_in_order_by_what_agrees(scene: np.ndarray) -> None:
    blank = Keypoints(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
    keypoints = [find_keypoints(scene)] + [blank] * 28 + [find_keypoints(scene)]
    base_N = np.linspace(0.9, -0.9, 30)
    base_N[0] = -np.inf  # the query itself

    def rank(order_N: np.ndarray) -> list[int]:
        score = Verifier(keypoints).rerank(lambda start, stop: order_N[None].copy(), np.array([0]))
        return np.argsort(-score(0, 1)[0], kind="stable").tolist()

    assert rank(base_N) == [*range(1, 30), 0]  # the copy is beyond the first 20
    nearer_N = base_N.copy()
    nearer_N[29] = 0.5
    assert rank(nearer_N) == [29, *range(1, 29), 0]


def test_energies_are_nearest_for_a_picture_of_the_same_texture() -> None:
    pictures = [draw(COLOURS["red"], seed=n).resize((224, 224)) for n in range(2)]
    pictures.append(Image.fromarray(draw_stripes(period=8, upright=True)))
    described = describe_pictures([encode_png(picture.convert("RGB")) for picture in pictures])
    score_1N = score_energies(described.energy_NF, np.array([0]))(0, 1)
    assert np.argsort(-score_1N[0]).tolist() == [0, 1, 2]
    assert described.pattern_NH.shape[0] == len(described.keypoints) == 3
