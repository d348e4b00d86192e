"""Every tower that params.yaml can name is built, exported and run; weights come from files where there is no hub."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import scipy.linalg
import torch
from conftest import COLOURS, TINY, draw

from cbir.errors import TowerError
from cbir.params import TowerParams
from cbir.towers import pooling
from cbir.towers.export import export_towers
from cbir.towers.imagenet import read_classes
from cbir.towers.pooling import average_cells, count_relations, pool_attention, pool_gem, pool_mean, relate_channels
from cbir.towers.run import Towers
from cbir.towers.shape import GRID_CELLS
from cbir.towers.text import build_text, make_clip_tokenizer
from cbir.towers.visual import build_visual
from cbir.towers.weights import read_checkpoint

CAPTIONS = ["a red apple", "a green apple on the table", "the red car"]


def export(params: TowerParams, folder: Path) -> Towers:
    export_towers(build_visual(params), build_text(params, captions=CAPTIONS), folder)
    return Towers(folder)


def check_outputs(towers: Towers, *, images: int) -> None:
    """Shapes are those announced, and a picture gives the same whatever is beside it."""
    visual, text = towers.shapes.visual, towers.shapes.text
    pictures = [draw(COLOURS["red"], seed=n) for n in range(images)]
    grid_BGV, image_BS = towers.see(pictures)
    assert (grid_BGV.shape, image_BS.shape) == ((images, GRID_CELLS, visual.width), (images, visual.summary))
    alone = towers.see(pictures[:1])[1]
    assert np.allclose(alone[0], image_BS[0], atol=1e-3 * np.abs(image_BS[0]).max())
    states_BTW, mask_BT, text_BR = towers.read(["a red apple", "the red car on a table"])
    assert (states_BTW.shape[2], text_BR.shape) == (text.width, (2, text.summary))
    assert np.allclose(towers.read(["a red apple"])[2][0], text_BR[0], atol=1e-4)
    assert mask_BT[1].all()


@pytest.mark.slow
@pytest.mark.parametrize("visual", ["torchvision/vgg16", "torchvision/resnet50", "torchvision/inception_v3"])
def test_a_tower_of_torchvision_runs_at_its_own_size(visual: str, tmp_path: Path) -> None:
    towers = export(TowerParams(visual=visual, visual_weights="random", text="word-vectors"), tmp_path)
    assert towers.shapes.visual.image_size == (299 if "inception" in visual else 224)
    assert towers.shapes.visual.width == (512 if "vgg" in visual else 2048)
    check_outputs(towers, images=2)


def test_an_open_clip_model_gives_both_towers_from_a_local_checkpoint(tiny: Path, tmp_path: Path) -> None:
    name = f"open_clip/{TINY}"
    towers = export(TowerParams(visual=name, visual_weights=str(tiny), text=name), tmp_path)
    check_outputs(towers, images=3)
    model = open_clip.create_model(TINY, pretrained=str(tiny)).eval()
    with torch.no_grad():
        theirs = model.encode_text(open_clip.get_tokenizer(TINY)(["a red apple"]))[0].numpy()
    ours = towers.read(["a red apple"])[2][0, : len(theirs)]
    assert np.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    "text", ["A red apple!", "it's 12 o'clock - naïve café", "  two   dogs's ", "日本 😀", "a_b #c"]
)
def test_the_clip_tokenizer_agrees_with_open_clips(text: str) -> None:
    padded = open_clip.get_tokenizer("ViT-B-32")([text])[0].tolist()
    assert make_clip_tokenizer().encode(text).ids == padded[: padded.index(49407) + 1]


def test_word_vectors_are_learned_from_the_captions_and_leave_out_what_says_nothing(tmp_path: Path) -> None:
    params = TowerParams(text="word-vectors")
    towers = export(params, tmp_path)
    apple, shouted, padded, unknown = towers.read(["red apple", "Red, APPLE!", "the red apple on a", "zebra"])[2]
    assert np.allclose(apple, shouted)
    assert np.allclose(apple, padded)
    assert apple.any()
    assert not unknown.any()
    again = build_text(params, captions=CAPTIONS)
    assert torch.equal(again.vectors.weight, build_text(params, captions=CAPTIONS).vectors.weight)


def test_pooling_is_what_its_formula_says() -> None:
    flat = torch.full((1, 2, 4, 4), 3.0)
    for pool in (pool_mean, pool_gem, pool_attention):
        assert torch.allclose(pool(flat), torch.tensor([[3.0, 3.0]]), atol=1e-5)
    spot = torch.zeros(1, 2, 2, 2)
    spot[0, 0, 0, 0] = 8.0
    assert pool_mean(spot)[0, 0] == pytest.approx(2.0)
    assert pool_gem(spot)[0, 0] == pytest.approx((8.0**3 / 4) ** (1 / 3), rel=1e-4)
    assert pool_attention(spot)[0, 0] == pytest.approx(8.0, rel=1e-3)


@pytest.mark.parametrize("side", [5, 7, 8, 14])
def test_cells_cover_the_whole_map(side: int) -> None:
    corner = torch.zeros(1, 1, side, side)
    corner[0, 0, -1, -1] = 1.0
    cells = average_cells(corner)[0, 0]
    assert cells.shape == (9,)
    assert cells[8] > 0
    assert not cells[:8].any()


def draw_map(channels: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, 12, 12, generator=torch.Generator().manual_seed(seed)).clamp(min=0)


@pytest.mark.parametrize(("steps", "cosine"), [(pooling.ROOT_STEPS, 0.98), (20, 0.9999)])
def test_relations_are_the_square_root_of_the_covariance(
    steps: int, cosine: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "ROOT_STEPS", steps)
    seen = draw_map(24)
    related = relate_channels(seen).numpy()
    assert related.shape == (2, count_relations(24))
    for ours, places in zip(related, seen.flatten(2).numpy(), strict=True):
        root = scipy.linalg.sqrtm(np.cov(places, bias=True))[np.triu_indices(24)]
        assert np.dot(ours, root) / np.linalg.norm(ours) / np.linalg.norm(root) > cosine


def test_relations_tell_what_is_seen_together_and_not_where() -> None:
    seen = draw_map(24)
    places = torch.randperm(144, generator=torch.Generator().manual_seed(1))
    moved = seen.flatten(2)[..., places].view_as(seen)
    assert torch.allclose(relate_channels(moved), relate_channels(seen), atol=1e-4)
    parted = seen.clone()
    parted[:, 0] = moved[:, 0]  # the same mean and deviation of every channel
    apart = relate_channels(parted) - relate_channels(seen)
    assert apart[:, :24].abs().max() > 0.02
    assert apart[:, 24:].abs().max() < apart[:, :24].abs().max()


@pytest.mark.parametrize(("channels", "width"), [(24, 300), (64, 2080), (512, 2080)])
def test_wide_maps_have_no_more_relations_than_64_channels(channels: int, width: int) -> None:
    related = relate_channels(draw_map(channels))
    assert related.shape == (2, width)
    assert count_relations(channels) == width
    if channels > 64:  # an orthonormal reduction keeps a share of what varies
        whole = (draw_map(channels) - draw_map(channels).mean((2, 3), keepdim=True)).square().sum((1, 2, 3))
        assert (related.square().sum(1) < whole).all()


def test_a_picture_of_one_colour_has_relations_too() -> None:
    related = relate_channels(torch.ones(1, 80, 7, 7))
    assert torch.isfinite(related).all()
    assert related.abs().max() < 0.01


def test_only_a_tower_with_its_own_classifier_names_classes(tmp_path: Path) -> None:
    params = TowerParams(pooling="gem")
    classes = read_classes(params, export(params, tmp_path))
    assert classes.weight_CV.shape == (0, 1280)
    assert classes.text_CR.shape[0] == 0


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"visual": "eficientnet-lite0"}, "did you mean efficientnet-lite0"),
        ({"visual": "torchvision/vgg16"}, "set towers.visual_weights to a checkpoint"),
        ({"visual": "torchvision/vgg16", "visual_weights": "IMAGENET"}, "neither a file nor a tag"),
        ({"visual": "open_clip/ViT-B-33"}, "did you mean ViT-B-32"),
        ({"visual": "open_clip/ViT-B-32"}, "needs weights"),
        ({"visual": "open_clip/ViT-B-32", "visual_weights": "openai"}, "use open_clip/ViT-B-32-quickgelu"),
        ({"visual": "open_clip/ViT-B-32", "visual_weights": "laion2b_s34b_b79"}, "did you mean laion2b_s34b_b79k"),
        ({"visual": "open_clip/ViT-B-32", "visual_weights": "laion2b_s34b_b79k"}, r"download .*laion.* elsewhere"),
    ],
)
def test_a_visual_tower_that_cannot_be_had_says_what_to_do(
    params: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TowerError, match=says):
        build_visual(TowerParams(**params))


def test_a_checkpoint_of_another_architecture_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(TowerError, match="another architecture"):
        build_visual(TowerParams(visual="open_clip/RN50", visual_weights=str(tiny)))
    with pytest.raises(TowerError, match="another architecture"):
        build_visual(TowerParams(visual="torchvision/resnet50", visual_weights=str(tiny)))
    with pytest.raises(TowerError, match="another architecture"):
        build_visual(TowerParams(visual_weights=str(tiny)))


def test_a_checkpoint_of_openai_is_refused_under_the_wrong_activation(tiny: Path) -> None:
    named = tiny.with_name("ViT-tiny-openai.safetensors")
    named.write_bytes(tiny.read_bytes())
    with pytest.raises(TowerError, match=f"use open_clip/{TINY}-quickgelu"):
        build_visual(TowerParams(visual=f"open_clip/{TINY}", visual_weights=str(named)))


def test_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"run": print}, path)
    with pytest.raises(TowerError, match="no checkpoint of plain tensors"):
        build_visual(TowerParams(visual_weights=str(path)))


def test_a_text_tower_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TowerError, match="did you mean minilm-l6"):
        build_text(TowerParams(text="minilm"), captions=[])
    with pytest.raises(TowerError, match="no captions to learn"):
        build_text(TowerParams(text="word-vectors"), captions=["the of"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TowerError, match=r"tokenizer.json is missing"):
        build_text(TowerParams(text=str(tmp_path)), captions=[])


def test_a_folder_in_the_place_of_a_checkpoint_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(TowerError, match="is a folder; name the file in it"):
        read_checkpoint(tmp_path)
