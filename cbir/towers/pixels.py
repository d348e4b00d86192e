"""What is counted of a picture's own pixels: its colours, and its texture, by means older than networks.

They run inside the exported tower, so that a release needs no library for them.

Shapes: B batch, H height, W width, C channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from cbir.towers.shape import COLOUR_LEVELS, GABOR_ANGLES, GABOR_SCALES, NEIGHBOURS, PATTERNS

LUMA = (0.299, 0.587, 0.114)
LEVELS = 255.0
LEAST_STEP = 1e-3  # of grey, under which two places are equal: what interpolation loses of a flat ground
ASPECT = 0.5  # of a Gabor filter's envelope


def count_colours(pixels: torch.Tensor) -> torch.Tensor:
    """Square root of the share of pixels near each colour of a grid, linear between them; one pixel in four counts.

    Pixels (B, 3, H, W) in [-1, 1] -> (B, COLOURS), rows of unit length (Swain & Ballard 1991, Color indexing).
    """
    level = torch.linspace(-1.0, 1.0, COLOUR_LEVELS)
    near_BCLP = pixels[:, :, ::2, ::2].flatten(2)[:, :, None] - level[:, None]
    near_BCLP = (1 - near_BCLP.abs() * (COLOUR_LEVELS - 1) / 2).clamp(min=0)
    red, green, blue = near_BCLP.unbind(1)
    pairs_BKP = (red[:, :, None] * green[:, None]).flatten(1, 2)
    return (pairs_BKP @ blue.transpose(1, 2)).flatten(1).div(blue.shape[2]).sqrt()


def count_patterns(pixels: torch.Tensor) -> torch.Tensor:
    """Square root of the share of each uniform local binary pattern (Ojala, Pietikäinen & Mäenpää 2002).

    Pixels (B, 3, H, W) in [-1, 1] -> (B, PATTERNS), rows of unit length.
    """
    grey_BHW = _take_grey(pixels)
    height, width = grey_BHW.shape[1:]
    around = F.pad(grey_BHW[:, None], (1, 1, 1, 1))[:, 0]
    above = []
    for number in range(NEIGHBOURS):
        angle = 2 * math.pi * number / NEIGHBOURS
        down, right = 1 - math.sin(angle), 1 + math.cos(angle)  # in ``around``, where the place itself is at 1, 1
        top, left = math.floor(down + 1e-9), math.floor(right + 1e-9)
        neighbour_BHW = torch.zeros_like(grey_BHW)
        for row, down_share in ((top, 1 - (down - top)), (top + 1, down - top)):
            for column, right_share in ((left, 1 - (right - left)), (left + 1, right - left)):
                if down_share * right_share > 1e-9:
                    part_BHW = around[:, row : row + height, column : column + width]
                    neighbour_BHW = neighbour_BHW + down_share * right_share * part_BHW
        above.append((neighbour_BHW - grey_BHW > -LEAST_STEP).float())
    turns_BHW = sum((one - other).abs() for one, other in zip(above, [*above[1:], above[0]], strict=True))
    ones_BHW = torch.stack(above).sum(0)
    pattern_BHW = torch.where(torch.as_tensor(turns_BHW) <= 2, ones_BHW, torch.full_like(ones_BHW, NEIGHBOURS + 1))
    share = [(pattern_BHW == float(number)).float().mean((1, 2)) for number in range(PATTERNS)]
    return torch.stack(share, dim=1).sqrt()


def measure_energies(pixels: torch.Tensor) -> torch.Tensor:
    """Mean and deviation of the responses to Gabor filters of 3 scales and 6 angles, at half the size.

    Pixels (B, 3, H, W) in [-1, 1] -> (B, ENERGIES) (Manjunath & Ma 1996, Texture features for browsing and retrieval).
    """
    small_B1HW = F.avg_pool2d(_take_grey(pixels)[:, None], 2) / LEVELS
    parts = []
    for envelope, wavelength in GABOR_SCALES:
        filters = torch.stack(
            [_make_filter(envelope, wavelength, math.pi * number / GABOR_ANGLES) for number in range(GABOR_ANGLES)]
        )
        edge = filters.shape[-1] // 2
        padded_B1HW = F.pad(small_B1HW, (edge, edge, edge, edge), mode="replicate")
        response_BCHW = F.conv2d(padded_B1HW, filters[:, None]).abs()
        mean_BC, square_BC = (part.mean((2, 3)) for part in (response_BCHW, response_BCHW * response_BCHW))
        parts.append(torch.cat([mean_BC, (square_BC - mean_BC * mean_BC).clamp(min=0).sqrt()], dim=1))
    return torch.cat(parts, dim=1)


def _take_grey(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 3, H, W) in [-1, 1] -> whole levels of grey (B, H, W), 0 to 255."""
    luma = torch.tensor(LUMA)[:, None, None]
    return ((pixels + 1) * (LEVELS / 2) * luma).sum(1).round()


def _make_filter(envelope: float, wavelength: float, angle: float) -> torch.Tensor:
    """A Gabor filter (S, S) to which a plain ground answers nothing; ``envelope`` and ``wavelength`` in pixels."""
    edge = 2 * int(envelope)
    y, x = torch.meshgrid(*(torch.arange(-edge, edge + 1, dtype=torch.float32),) * 2, indexing="ij")
    along, across = x * math.cos(angle) + y * math.sin(angle), -x * math.sin(angle) + y * math.cos(angle)
    wave = torch.exp(-(along**2 + (ASPECT * across) ** 2) / (2 * envelope**2))
    wave = wave * torch.cos(2 * math.pi * along / wavelength)
    return wave - wave.mean()
