"""BatchNorm for maps that may have one value per channel."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Normalisation(nn.BatchNorm2d):
    """BatchNorm that takes its running statistics where a batch has one value per channel."""

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, C, H, W)."""
        if feature_map.numel() > feature_map.shape[1]:
            return super().forward(feature_map)
        mean, variance = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        return F.batch_norm(feature_map, mean, variance, self.weight, self.bias, training=False, eps=self.eps)
