"""Named classes speak in the words of what they are, and the mean picture says nothing."""

from __future__ import annotations

import numpy as np
import torch

from cbir.classes import Classes, NamedClasses

CAT, CAR = 0, 1


def fit(pooled_NV: torch.Tensor) -> NamedClasses:
    classes = Classes(
        weight_CV=20 * np.eye(2, 3, dtype=np.float32),
        bias_C=np.zeros(2, np.float32),
        text_CR=np.zeros((2, 5), np.float32),
    )
    named = NamedClasses(classes=2, visual_width=3, words=2)
    named.fit(pooled_NV, classes=classes, word_CW=torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    return named


def test_a_picture_of_a_class_gets_its_words() -> None:
    pooled_NV = torch.tensor([[1.0, 0.0, 5.0], [0.0, 1.0, 5.0]])
    word_NW = fit(pooled_NV)(pooled_NV)
    half = 0.5**0.5
    assert torch.allclose(word_NW, torch.tensor([[half, -half], [-half, half]]), atol=1e-3)


def test_a_class_that_all_pictures_look_like_is_no_news() -> None:
    cats_NV = torch.tensor([[5.0, 0.0, 0.0], [5.0, 1.0, 0.0]])
    word_NW = fit(cats_NV)(cats_NV)
    assert word_NW[1].argmax() == CAR
    assert torch.allclose(word_NW.sum(0), torch.zeros(2), atol=1e-5)


def test_without_classes_or_words_nothing_is_said() -> None:
    pooled_BV = torch.randn(4, 3)
    assert torch.equal(NamedClasses(classes=0, visual_width=3, words=2)(pooled_BV), torch.zeros(4, 2))
    assert NamedClasses(classes=2, visual_width=3, words=0)(pooled_BV).shape == (4, 0)
