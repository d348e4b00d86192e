"""How alike pictures are by the classical means of image retrieval: texture, and local features whose places agree.

Shapes: N pictures, H bins of a histogram, F filters, B queries of one block.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image
from scipy.spatial.distance import cdist
from skimage.feature import local_binary_pattern

from cbir.progress import follow
from cbir.ranks import ScoreRows
from cbir.towers.shape import GABOR_ANGLES, GABOR_SCALES, NEIGHBOURS

GABOR_SIDE = 128  # pixels
KEYPOINTS = 200
LEAST_AGREEING = 10  # of unrelated pictures, one pair in seventeen has as many (docs/benchmarks.md)
TOLERANCE = 4.0  # pixels that a match may be off
VERIFIED = 20  # of the ranking that is verified
A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True)
class Keypoints:
    """Places (K, 2) in pixels and binary descriptors (K, 32) of one picture; K may be 0."""

    place_K2: np.ndarray
    descriptor_K: np.ndarray


@dataclass(frozen=True)
class Descriptors:
    """What is computed once of every picture: histogram of patterns (N, H), filter energies (N, 2F), keypoints."""

    pattern_NH: np.ndarray
    energy_NF: np.ndarray
    keypoints: Sequence[Keypoints]


def describe_pictures(images: Sequence[bytes]) -> Descriptors:
    """Texture and keypoints of PNG pictures, in grey."""
    done = follow(_map(_describe, images), total=len(images), description="classical descriptors")
    patterns, energies, keypoints = zip(*done, strict=True)
    return Descriptors(np.stack(patterns), np.stack(energies), keypoints)


def score_energies(energy_NF: np.ndarray, rows: np.ndarray) -> ScoreRows:
    """Minus the city-block distance of filter energies, each by its spread (Manjunath & Ma 1996)."""
    scaled_NF = energy_NF / np.maximum(energy_NF.std(axis=0), 1e-9)
    return lambda start, stop: -cdist(scaled_NF[rows[start:stop]], scaled_NF, "cityblock")


class Verifier:
    """Counts keypoints of two pictures that match and agree in place, each pair once."""

    def __init__(self, keypoints: Sequence[Keypoints]) -> None:
        self._keypoints = keypoints
        self._known: dict[tuple[int, int], int] = {}

    def rerank(self, score: ScoreRows, rows: np.ndarray) -> ScoreRows:
        """The first 20 of a ranking by the matches that agree, those of equal number and all others as they were.

        ``score`` must be between -1 and 1, or minus infinity for what is left out.
        """

        def rerank_block(start: int, stop: int) -> np.ndarray:
            score_BN = score(start, stop)
            first = np.argsort(-score_BN, axis=1, kind="stable")[:, :VERIFIED]
            pairs = [(int(row), int(n)) for row, some in zip(rows[start:stop], first, strict=True) for n in some]
            agree = np.array(self.count_agreeing(pairs), np.float64).reshape(first.shape)
            block = np.arange(len(first))[:, None]
            score_BN[block, first] += 4 * (1 + agree)
            return score_BN

        return rerank_block

    def count_agreeing(self, pairs: Sequence[tuple[int, int]]) -> list[int]:
        """Of every pair of pictures, how many keypoints agree."""
        keys = [(min(pair), max(pair)) for pair in pairs]
        todo = sorted(set(keys) - self._known.keys())
        found = _map(lambda key: count_agreeing(self._keypoints[key[0]], self._keypoints[key[1]]), todo)
        self._known |= dict(zip(todo, found, strict=True))
        return [self._known[key] for key in keys]


def look_again(picture: Image.Image, others: Sequence[Image.Image]) -> list[int]:
    """How many keypoints of ``picture`` are found in each of the others, in one arrangement."""
    own, *theirs = _map(lambda image: find_keypoints(np.asarray(image.convert("L"))), [picture, *others])
    return list(_map(lambda keypoints: count_agreeing(own, keypoints), theirs))


def count_agreeing(one: Keypoints, other: Keypoints) -> int:
    """Matches that one shift, turn and scaling explains, by RANSAC (Fischler & Bolles 1981), over ORB's own.

    A few always agree by chance: fewer than 10 count as none.
    """
    if min(len(one.place_K2), len(other.place_K2)) < LEAST_AGREEING:
        return 0
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(one.descriptor_K, other.descriptor_K)
    if len(matches) < LEAST_AGREEING:
        return 0
    here = one.place_K2[[match.queryIdx for match in matches]]
    there = other.place_K2[[match.trainIdx for match in matches]]
    _, agreeing = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=TOLERANCE, maxIters=300)
    count = 0 if agreeing is None else int(agreeing.sum())
    return count if count >= LEAST_AGREEING else 0


def _describe(image: bytes) -> tuple[np.ndarray, np.ndarray, Keypoints]:
    grey = np.asarray(Image.open(io.BytesIO(image)).convert("L"))
    return take_patterns(grey), take_energies(grey), find_keypoints(grey)


def take_patterns(grey: np.ndarray) -> np.ndarray:
    """Histogram (H,) of uniform local binary patterns (Ojala, Pietikäinen & Mäenpää 2002).

    It is the root of the shares, so that the dot product of two is the Bhattacharyya coefficient.
    """
    pattern = local_binary_pattern(grey, NEIGHBOURS, 1, "uniform")  # type: ignore[no-untyped-call]
    pattern = pattern.astype(np.int64)
    return np.sqrt(np.bincount(pattern.ravel(), minlength=NEIGHBOURS + 2) / pattern.size)


def take_energies(grey: np.ndarray) -> np.ndarray:
    """Mean and deviation (2F,) of the responses to Gabor filters of 3 scales and 6 angles."""
    small = cv2.resize(grey, (GABOR_SIDE, GABOR_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    responses = np.stack([np.abs(cv2.filter2D(small, -1, kernel)) for kernel in _build_filters()])
    return np.concatenate([responses.mean(axis=(1, 2)), responses.std(axis=(1, 2))])


def _build_filters() -> Iterator[np.ndarray]:
    for width, wavelength in GABOR_SCALES:
        for angle in range(GABOR_ANGLES):
            side = 4 * int(width) + 1
            kernel = cv2.getGaborKernel((side, side), width, np.pi * angle / GABOR_ANGLES, wavelength, 0.5, 0)
            yield kernel - kernel.mean()  # a plain ground answers nothing


def find_keypoints(grey: np.ndarray) -> Keypoints:
    """The strongest ORB keypoints (Rublee et al. 2011)."""
    found, descriptor = cv2.ORB.create(nfeatures=KEYPOINTS, fastThreshold=7, edgeThreshold=15).detectAndCompute(
        grey, None
    )
    place_K2 = np.array([point.pt for point in found], np.float32).reshape(-1, 2)
    return Keypoints(place_K2, np.zeros((0, 32), np.uint8) if descriptor is None else descriptor)


def _map(call: Callable[[A], R], values: Sequence[A]) -> Iterator[R]:
    """In threads, in order: OpenCV does not hold the interpreter's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(call, values)
