"""How a tower's weights are read from a file. Nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cbir.errors import TowerError
from cbir.towers.names import check_file

WRAPPERS = ("state_dict", "model_state_dict", "model")  # under which trainers store the weights themselves


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a ``.safetensors``, ``.pt`` or ``.pth`` file; ``module.`` before names is taken off.

    Raises:
        TowerError: the file is not there, or is no checkpoint.
    """
    check_file(path)
    try:
        found: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True, map_location="cpu")
        )
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise TowerError(
            f"{path} is no checkpoint of plain tensors ({str(error).splitlines()[0]}); save it as safetensors."
        ) from None
    for name in WRAPPERS:
        found = found[name] if isinstance(found, dict) and isinstance(found.get(name), dict) else found
    if not isinstance(found, dict):
        raise TowerError(f"{path} holds a {type(found).__name__}, not tensors by name; save its state_dict.")
    return {name.removeprefix("module."): tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
