"""A fusion starts and encodes whatever a catalogue lacks: captions, labels, or both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHAPES
from small_fusions import draw_features

from cbir.classes import Classes
from cbir.encoder import CONFIG, FUSION_ONNX, Encoder, Features, read_canvas
from cbir.errors import TowerError
from cbir.features import keep_modalities
from cbir.fusing import make_tokens, run_fusion, save_fusion
from cbir.fusion import Evidence, Fusion, FusionConfig
from cbir.held_out import embed_views
from cbir.images import Canvas
from cbir.objective import encode_labels
from cbir.params import TrainParams
from cbir.start import find_basis, start_fusion

ROWS = 40
CLASSES = Classes(
    weight_CV=np.eye(3, SHAPES.visual.width, dtype=np.float32),
    bias_C=np.zeros(3, np.float32),
    text_CR=np.eye(3, SHAPES.text.summary, dtype=np.float32),
)
PARAMS = TrainParams(dimensions=64)
COLOURS = [["red"], ["green"], ["blue"], ["red", "blue"]]


def invent(*, texts: bool) -> Features:
    rng = np.random.default_rng(0)
    image_BS = rng.normal(size=(ROWS, SHAPES.visual.summary)).astype(np.float32)
    text_BR = rng.normal(size=(ROWS, SHAPES.text.summary)).astype(np.float32) * texts
    return draw_features(rng, image_BS=image_BS, text_BR=text_BR)


def start(
    features: Features, label_NL: np.ndarray, *, params: TrainParams = PARAMS
) -> tuple[Fusion, FusionConfig, Evidence]:
    return start_fusion(
        features,
        label_NL,
        basis_LC=find_basis(label_NL, most=20),
        cluster_N=np.arange(ROWS),
        classes=CLASSES,
        shapes=SHAPES,
        params=params,
    )


@pytest.mark.parametrize("texts", [True, False], ids=["captions", "no captions"])
@pytest.mark.parametrize("labels", [COLOURS * 10, [[]] * ROWS], ids=["labels", "no labels"])
def test_every_catalogue_gives_unit_vectors_that_tell_items_apart(texts: bool, labels: list[list[str]]) -> None:
    features, label_NL = invent(texts=texts), encode_labels(labels)
    torch.manual_seed(0)
    fusion, config, evidence = start(features, label_NL)
    assert (config.labels > 0, config.words > 0) == (labels == COLOURS * 10, texts)
    assert len(evidence.image_BE) == ROWS
    with torch.inference_mode():
        fusion.eval().late.order(embed_views(fusion, features))
        vector_ND = run_fusion(fusion, features).numpy()
    assert vector_ND.shape == (ROWS, 64)
    assert np.allclose(np.linalg.norm(vector_ND, axis=1), 1, atol=1e-5)
    assert len(np.unique(vector_ND.round(4), axis=0)) == ROWS


def test_a_modality_that_is_masked_out_changes_nothing() -> None:
    features, label_NL = invent(texts=True), encode_labels(COLOURS * 10)
    fusion, _, _ = start(features, label_NL)
    fusion.eval()
    torch.nn.init.normal_(fusion.found.weight)
    torch.nn.init.normal_(fusion.trust.weight)
    torch.nn.init.normal_(fusion.hear.weight)
    other = Features(**{**vars(features), "text_BR": -features.text_BR, "tokens_BTW": -features.tokens_BTW})
    with torch.inference_mode():
        one, two = (run_fusion(fusion, keep_modalities(f, image=True, text=False)) for f in (features, other))
    assert torch.equal(one, two)


def halve_kinds() -> tuple[Features, np.ndarray]:
    """Four kinds: the picture says in which half of them a thing is, and the words in which half of that."""
    kind_N = np.arange(ROWS) % 4
    rng = np.random.default_rng(0)
    image_BS, text_BR = (
        (0.2 * rng.normal(size=(ROWS, width)) + rng.normal(size=(2, width))[half_N]).astype(np.float32)
        for width, half_N in ((SHAPES.visual.summary, kind_N // 2), (SHAPES.text.summary, kind_N % 2))
    )
    return draw_features(rng, image_BS=image_BS, text_BR=text_BR), encode_labels([[f"kind {n}"] for n in kind_N])


def test_picture_and_words_together_name_a_label_that_each_knows_half_of() -> None:
    features, label_NL = halve_kinds()
    fusion, _, evidence = start(features, label_NL)
    place_NC = torch.nn.functional.normalize(torch.from_numpy(label_NL @ find_basis(label_NL, most=20)), dim=1)

    def rate(label_NC: torch.Tensor) -> float:
        """How near what is said of the labels is to their places, at most 1."""
        return float((torch.nn.functional.normalize(label_NC, dim=1) * place_NC).sum(1).mean())

    with torch.inference_mode():
        judged_NC = fusion.judge_labels(evidence, tokens=make_tokens(features))
    added = rate(evidence.image_BL + evidence.text_BL)
    assert added < 0.85
    assert rate(judged_NC) > added + 0.05
    assert rate(evidence.both_BL) > 0.95


def test_a_wish_beside_a_picture_leaves_no_label_part() -> None:
    features, label_NL = halve_kinds()
    fusion, config, evidence = start(features, label_NL)
    instance_ND = torch.nn.functional.normalize(torch.ones(ROWS, fusion.instance_width), dim=1)

    def measure(bias: float) -> torch.Tensor:
        """Length of the label part beside an instance part of length 1, where words are trusted as ``bias`` says."""
        torch.nn.init.constant_(fusion.trust.bias, bias)
        with torch.inference_mode():
            vector_ND = fusion.compose(instance_ND, evidence, tokens=make_tokens(features))
        label_N, rest_N = vector_ND[:, : config.labels].norm(dim=1), vector_ND[:, config.labels :].norm(dim=1)
        return label_N / rest_N * (1 + PARAMS.appearance_share_both**2) ** 0.5

    assert torch.allclose(measure(-20.0), torch.zeros(ROWS), atol=1e-4)
    assert torch.allclose(measure(0.0), torch.full((ROWS,), PARAMS.label_share_both), atol=1e-4)


def test_pictures_without_words_or_labels_are_as_alike_as_what_the_tower_sees_of_them() -> None:
    features, label_NL = invent(texts=False), encode_labels([[]] * ROWS)
    fusion, _, evidence = start(features, label_NL, params=replace(PARAMS, appearance_share_alone=0.0))
    with torch.inference_mode():
        vector_ND = run_fusion(fusion.eval(), features)
    centred_NE = torch.nn.functional.normalize(evidence.image_BE - evidence.image_BE.mean(0), dim=1)
    assert torch.allclose(vector_ND @ vector_ND.T, centred_NE @ centred_NE.T, atol=1e-3)


def test_labels_have_no_more_directions_than_differ() -> None:
    assert find_basis(encode_labels([["a"], ["b"], ["a"], ["b"]]), most=9).shape == (2, 1)
    assert find_basis(encode_labels([["a"], ["a"]]), most=9).shape == (1, 0)


def test_an_encoder_of_another_version_is_named(tmp_path: Path) -> None:
    features, label_NL = invent(texts=True), encode_labels(COLOURS * 10)
    fusion, config, _ = start(features, label_NL)
    save_fusion(fusion, config, SHAPES, folder=tmp_path, canvas=Canvas(size=96, background="black"))
    assert read_canvas(tmp_path / CONFIG) == Canvas(size=96, background="black")
    (tmp_path / FUSION_ONNX).unlink()
    with pytest.raises(TowerError, match=r"another version.*cbir-ops retrain"):
        Encoder.load(tmp_path)
