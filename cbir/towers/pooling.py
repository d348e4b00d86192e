"""How a feature map becomes one vector, and how it becomes few cells.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cbir.towers.shape import GRID_SIDE

GEM_POWER = 3.0


def pool_mean(map_BCHW: Any) -> Any:
    """The average, (B, C)."""
    return map_BCHW.mean((2, 3))


def pool_gem(map_BCHW: Any) -> Any:
    """Generalised mean: between the average and the maximum (GeM; Radenovic et al. 2018)."""
    return map_BCHW.clamp(min=1e-6).pow(GEM_POWER).mean((2, 3)).pow(1 / GEM_POWER)


def pool_attention(map_BCHW: Any) -> Any:
    """The mean over places, each weighed by how much all channels see there (CroW; Kalantidis et al. 2016).

    Attention without weights to train, so it serves frozen towers too.
    """
    seen_B1HW = map_BCHW.clamp(min=0).sum(1, keepdim=True)
    length_B111 = seen_B1HW.square().sum((2, 3), keepdim=True).sqrt().clamp(min=1e-6)
    weight_B1HW = (seen_B1HW / length_B111).clamp(min=1e-12).sqrt()
    return (map_BCHW * weight_B1HW).sum((2, 3)) / weight_B1HW.sum((2, 3)).clamp(min=1e-6)


POOLING: dict[str, Callable[[Any], Any]] = {"mean": pool_mean, "gem": pool_gem, "attention": pool_attention}


def average_cells(map_BCHW: Any) -> Any:
    """Means of 3 x 3 overlapping cells, (B, C, 9)."""
    import torch.nn.functional as F

    height, width = int(map_BCHW.shape[2]), int(map_BCHW.shape[3])
    stride = (max(height // GRID_SIDE, 1), max(width // GRID_SIDE, 1))
    kernel = (height - (GRID_SIDE - 1) * stride[0], width - (GRID_SIDE - 1) * stride[1])
    return F.avg_pool2d(map_BCHW, kernel_size=kernel, stride=stride).flatten(2)


def describe_map(map_BCHW: Any) -> list[Any]:
    """Mean and deviation of every channel, two of (B, C).

    By global pooling of the map and of its square, which ONNX Runtime does in the layout that its convolutions leave.
    """
    import torch.nn.functional as F

    mean_BC, square_BC = (F.adaptive_avg_pool2d(part, 1).flatten(1) for part in (map_BCHW, map_BCHW * map_BCHW))
    return [mean_BC, (square_BC - mean_BC * mean_BC).clamp(min=0).sqrt()]
