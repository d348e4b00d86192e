"""What the encoder is measured against: the frozen towers, the captions' words, and classical image retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from cbir.baselines import pool_towers, score_captions, take_histogram
from cbir.classical import Descriptors, Verifier, describe_pictures, score_energies
from cbir.encoder import Encoder
from cbir.gallery import Gallery
from cbir.query_sets import QuerySet, read_names, read_wishes
from cbir.ranks import ScoreRows, score_vectors


class Rivals:
    """Systems that need no training, over one gallery; what they compute of its items is kept."""

    def __init__(self, gallery: Gallery, encoder: Encoder) -> None:
        self._gallery = gallery
        self._encoder = encoder
        self._pooled = pool_towers(gallery.features, encoder.towers.shapes)
        self._spoken = bool(gallery.features.has_text_B.any())  # where no item has words, nothing is told by words

    def answer(self, query_set: QuerySet) -> dict[str, ScoreRows]:
        """The systems that can answer a query set; towers share no space, so not from words to pictures.

        For relative captions ``sum`` adds the cosines of picture to picture and of wish to caption.
        """
        rows, pooled = query_set.asking_Q, self._pooled
        match query_set.name:
            case "label":
                image_ND = pooled["image_only"]
                seen = {"image_only": score_vectors(image_ND[rows], image_ND)} | self._compare_pictures(query_set)
                return seen | self._read_items(rows) if self._spoken else seen
            case "label_name" if self._spoken:
                named = read_names(self._encoder, self._gallery, query_set.ids)
                asked_QD = pool_towers(named, self._encoder.towers.shapes)["text_only"]
                return {
                    "text_only": score_vectors(asked_QD, pooled["text_only"]),
                    "bm25": self._read_captions(query_set.ids),
                }
            case "copy":
                assert self._gallery.copies is not None, "the query set is of them"
                asked_QD = pool_towers(self._gallery.copies, self._encoder.towers.shapes)["image_only"]
                counted_QH, histogram_NH = take_histogram(self._gallery.copies), take_histogram(self._gallery.features)
                return {
                    "image_only": score_vectors(asked_QD, pooled["image_only"]),
                    "histogram": score_vectors(counted_QH, histogram_NH),
                }
            case "duplicate":
                image_ND = pooled["image_only"]
                return {"image_only": score_vectors(image_ND[rows], image_ND)} | self._compare_pictures(query_set)
            case "relative":
                return {"image_only": score_vectors(pooled["image_only"][rows], pooled["image_only"])}
            case "relative_indexed":
                wishes = pool_towers(read_wishes(self._encoder, self._gallery), self._encoder.towers.shapes)
                return {"sum": score_vectors(wishes["sum"], pooled["sum"])}
        return {}

    def _compare_pictures(self, query_set: QuerySet) -> dict[str, ScoreRows]:
        """Colour, texture, and ORB's keypoints as a second look at what the image tower finds first."""
        rows, image_ND = query_set.asking_Q, self._pooled["image_only"]
        histogram_NH, pattern_NH = take_histogram(self._gallery.features), self._described.pattern_NH
        found = query_set.relevance.leave_out(score_vectors(image_ND[rows], image_ND))
        return {
            "histogram": score_vectors(histogram_NH[rows], histogram_NH),
            "lbp": score_vectors(pattern_NH[rows], pattern_NH),
            "gabor": score_energies(self._described.energy_NF, rows),
            "orb": self._verifier.rerank(found, rows),
        }

    def _read_items(self, rows: np.ndarray) -> dict[str, ScoreRows]:
        """What compares the words of items, alone and beside their pictures."""
        towers = {name: score_vectors(self._pooled[name][rows], self._pooled[name]) for name in ("text_only", "sum")}
        return towers | {"bm25": self._read_captions([self._gallery.captions[row] for row in rows])}

    def _read_captions(self, asked: Sequence[str | None]) -> ScoreRows:
        score = score_captions(self._gallery.captions)
        return lambda start, stop: score(asked[start:stop])

    @cached_property
    def _described(self) -> Descriptors:
        return describe_pictures(self._gallery.images)

    @cached_property
    def _verifier(self) -> Verifier:
        return Verifier(self._described.keypoints)
