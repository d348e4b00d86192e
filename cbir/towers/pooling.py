"""How a feature map becomes one vector, and how it becomes few cells.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cbir.towers.shape import GRID_SIDE

GEM_POWER = 3.0
RELATED = 64  # channels, to which those of a map are reduced before they are related
ROOT_STEPS = 5  # of Newton's iteration: ten do not retrieve better (docs/benchmarks.md)
ROOT_RIDGE = 1e-4  # of a covariance whose trace is 1


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


def relate_channels(map_BCHW: Any) -> Any:
    """What is seen together: the square root of the channels' covariance over places, its upper half, (B, K).

    A mean says that there is a wheel and a red patch, this that the wheel is red (second-order pooling; Carreira et al.
    2012). The matrix's root is by Newton's iteration (Li et al. 2018, iSQRT-COV), which is products alone. Channels are
    reduced to ``RELATED`` by an orthonormal cosine transform: they have no order, so any such reduction would do.
    """
    import torch
    import torch.nn.functional as F

    channels = int(map_BCHW.shape[1])
    if channels > RELATED:
        map_BCHW = F.conv2d(map_BCHW, _list_cosines(channels)[:, :, None, None])
    place_BCP = map_BCHW.flatten(2)
    centred_BCP = place_BCP - place_BCP.mean(2, keepdim=True)
    covariance_BCC = centred_BCP @ centred_BCP.transpose(1, 2) / place_BCP.shape[2]
    width = int(covariance_BCC.shape[1])
    eye_CC = torch.eye(width)
    trace_B11 = (covariance_BCC * eye_CC).sum((1, 2), keepdim=True) + 1e-6
    root_BCC = covariance_BCC / trace_B11 + ROOT_RIDGE * eye_CC
    inverse_BCC = eye_CC.expand_as(root_BCC)
    for _ in range(ROOT_STEPS):
        step_BCC = 1.5 * eye_CC - 0.5 * inverse_BCC @ root_BCC
        root_BCC, inverse_BCC = root_BCC @ step_BCC, step_BCC @ inverse_BCC
    row, column = torch.triu_indices(width, width)
    return (root_BCC * trace_B11.sqrt()).flatten(1)[:, row * width + column]


def count_relations(channels: int) -> int:
    """Width of ``relate_channels`` of a map of so many channels."""
    width = min(channels, RELATED)
    return width * (width + 1) // 2


def _list_cosines(channels: int) -> Any:
    """The first ``RELATED`` rows of the orthonormal cosine transform, (RELATED, channels)."""
    import torch

    place_C = (torch.arange(channels, dtype=torch.float64) + 0.5) * torch.pi / channels
    cosine_RC = torch.cos(torch.arange(RELATED, dtype=torch.float64)[:, None] * place_C) * (2 / channels) ** 0.5
    cosine_RC[0] *= 0.5**0.5
    return cosine_RC.float()
