"""Where towers are fine-tuned: on which devices, in how many processes, and how alike each time."""

from __future__ import annotations

import os
import resource
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from cbir.errors import TrainingError
from cbir.params import FineTuneParams
from cbir.towers.run import count_cores


def compute_deterministically() -> None:
    """The same weights from the same data, on a GPU too."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it is not read


def launch(params: FineTuneParams) -> Fabric:
    """Where the towers learn; the other processes of this host are started unless torchrun did.

    Raises:
        TrainingError: there is no such accelerator, fewer devices, or torchrun started another number of processes.
    """
    started, local = (int(os.environ.get(name, "0")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if started and params.devices != "auto" and started != params.devices * params.hosts:
        raise TrainingError(
            f"{started} processes were started, which finetune.devices times finetune.hosts in params.yaml are not; "
            f"set them to {local or started} and {started // (local or started)}."
        )
    distributed = params.hosts > 1 or params.devices != 1
    try:
        fabric = Fabric(
            accelerator=params.accelerator,
            devices=params.devices,
            num_nodes=params.hosts,
            strategy=DDPStrategy(find_unused_parameters=True) if distributed else "auto",
            precision=params.precision,
        )
        fabric.launch()
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise TrainingError(
            f"{str(error).strip().splitlines()[0]} See accelerator, devices and hosts under finetune in params.yaml."
        ) from None
    return fabric


def count_workers(workers: int | Literal["auto"], *, on_gpu: bool, ranks: int) -> int:
    """Processes that decode; ``auto``: none without a GPU, for cores then compute, else a rank's share of them."""
    if workers != "auto":
        return workers
    return max(count_cores() // ranks - 1, 0) if on_gpu else 0


def read_memory(device: torch.device) -> float:
    """Peak GiB: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
