"""How what older means say of a picture is fused late: their scores beside the encoder's, in one vector.

The dot product of two vectors that are put end to end is the sum of the dot products of their parts, so a weighted sum
of scores (late fusion; Snoek, Worring & Smeulders 2005, Early versus late fusion in semantic video analysis) needs no
second index and no second search. Of a row without a picture that part is zero.

Shapes: B batch, S width of the image's summary, W of the fused vector, P width of all signals, T = W + P, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from cbir.similarity import Similarity

SCALED = ("gabor",)  # whose numbers are of units of their own, and are compared by their spread
TEXTURES = frozenset({"patterns", "gabor"})


class LateFusion(nn.Module):
    """The fused vector, of ``width``, and the signals of ``shares`` -> vectors of ``dimensions``, once it is ordered.

    ``shares``: of the score that each signal has where that of the fused vector is 1. ``places``: of the signals in the
    summary. Without a share the fused vector is turned, and nothing else.
    """

    turn_TD: torch.Tensor
    mean_P: torch.Tensor
    scale_P: torch.Tensor

    def __init__(
        self,
        *,
        shares: Mapping[str, float],
        places: Mapping[str, slice],
        width: int,
        dimensions: int,
        similarity: Similarity,
    ) -> None:
        super().__init__()
        self.similarity, self.dimensions = similarity, dimensions
        self.signals = [(name, places[name], share) for name, share in shares.items() if share > 0]
        self.widths = [place.stop - place.start for _, place, _ in self.signals]
        signals = sum(self.widths)
        self.register_buffer("mean_P", torch.zeros(signals))
        self.register_buffer("scale_P", torch.ones(signals))
        self.register_buffer("turn_TD", torch.eye(width + signals))

    def forward(self, fused_BW: torch.Tensor, image_BS: torch.Tensor, *, has_image_B: torch.Tensor) -> torch.Tensor:
        """Fused vectors, of unit length for the cosine, and the image summaries that they were made from."""
        heard = self._hear(image_BS) if self.signals else []
        vector_BT = torch.cat([fused_BW, *(part * has_image_B[:, None] for part in heard)], dim=1)
        vector_BD = vector_BT @ self.turn_TD
        return F.normalize(vector_BD, dim=1) if self.similarity == "cosine" else vector_BD

    def _hear(self, image_BS: torch.Tensor) -> list[torch.Tensor]:
        """Each signal, as long as the root of its share."""
        centred_BP = (self._cut(image_BS) - self.mean_P) / self.scale_P
        parts = torch.split(centred_BP, self.widths, dim=1)
        return [share**0.5 * F.normalize(part, dim=1) for part, (_, _, share) in zip(parts, self.signals, strict=True)]

    def fit(self, image_NS: torch.Tensor) -> None:
        """Let the mean picture of the catalogue say nothing."""
        if not self.signals or not len(image_NS):
            return
        signal_NP = self._cut(image_NS).float()
        self.mean_P.copy_(signal_NP.mean(0))
        parts = torch.split(signal_NP, self.widths, dim=1)
        for (name, _, _), part, scale in zip(self.signals, parts, torch.split(self.scale_P, self.widths), strict=True):
            if name in SCALED:
                scale.copy_(part.std(0, unbiased=False).clamp(min=1e-6))

    def order(self, vector_NT: torch.Tensor) -> None:
        """Turn the space so that its first dimensions say most of ``vector_NT``, this module's own output.

        The first 64 or 128 then do on their own (as those of Kusupati et al. 2022, Matryoshka representation learning):
        of all of that number the principal directions keep most of the vectors' dot products (Eckart & Young 1936). Of
        what is wider than ``dimensions`` the first so many are kept.
        """
        vector_NT = vector_NT.double()
        strength, directions = torch.linalg.eigh(vector_NT.T @ vector_NT)
        best = strength.argsort(descending=True)[: self.dimensions]
        self.turn_TD = self.turn_TD @ directions[:, best].float()

    def _cut(self, image_BS: torch.Tensor) -> torch.Tensor:
        return torch.cat([image_BS[:, place] for _, place, _ in self.signals], dim=1)
