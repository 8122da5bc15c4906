"""mixup and CutMix as pure functions of (seed, view, index).

An image's partner, its share and the box are drawn from its own word, and the partner from the whole
training set, so that a mixed image does not depend on its batch. (timm's and torchvision's draw one share
per batch from the global generator, and mix within the batch.) A mixed image has two labels; what was kept
of a teacher says nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812
from scipy.special import betaincinv
from torch import Tensor

from search.augment.hashing import integers, stream, uniform
from search.randomness import mix
from search.spec import Training

STREAM = 7
"""Sets the draws of mixing apart from those of augmentation."""
QUANTILES = 4096


@dataclass(frozen=True)
class Mixing:
    """mixup (Zhang et al. 2017, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899).

    Shares are Beta(alpha, alpha); 0 turns one off. Where both are on, each image gets one, at even odds.
    """

    mixup_alpha: float
    cutmix_alpha: float

    @classmethod
    def of(cls, training: Training) -> Mixing | None:
        """What these settings ask for; None: images are not mixed."""
        if training.mixup_alpha == training.cutmix_alpha == 0.0:
            return None
        return cls(training.mixup_alpha, training.cutmix_alpha)

    def words(self, indices: Tensor, *, seed: int, view: int) -> Tensor:
        """One word int64 (B,) per image, from which all below is drawn."""
        return stream(indices, seed=mix(seed, STREAM), view=view)

    def partners(self, words: Tensor, *, images: int) -> Tensor:
        """Each image's partner: its number int64 (B,) below `images`."""
        return integers(words, draw=0, high=images)

    def mixed(self, images: Tensor, others: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) mixed with their partners', and the own image's share (B,) of each."""
        is_cut = self._is_cut(words)
        blended = self._shares(words, self.mixup_alpha)
        box, kept = _boxes(words, 1.0 - self._shares(words, self.cutmix_alpha), images)
        weight = torch.where(is_cut[:, None, None], (~box).to(blended), blended[:, None, None])
        share = torch.where(is_cut, kept, blended)
        return torch.lerp(others, images, weight[:, None].to(images)), share

    def _is_cut(self, words: Tensor) -> Tensor:
        if self.mixup_alpha == 0.0 or self.cutmix_alpha == 0.0:
            return torch.full_like(words, self.mixup_alpha == 0.0, dtype=torch.bool)
        return integers(words, draw=1, high=2).bool()

    def _shares(self, words: Tensor, alpha: float) -> Tensor:
        """Beta(alpha, alpha) by its quantiles (B,); 1 where alpha is 0."""
        if alpha == 0.0:
            return torch.ones_like(words, dtype=torch.float32)
        return _quantiles(alpha).to(words.device)[integers(words, draw=2, high=QUANTILES)]


def soft_targets(labels: Tensor, others: Tensor, share: Tensor, *, classes: int) -> Tensor:
    """The labels' probabilities (B, K): `share` (B,) for the own label, the rest for the partner's."""
    own, other = (F.one_hot(value, classes).to(share) for value in (labels, others))
    return torch.lerp(other, own, share[:, None])


def _boxes(words: Tensor, area: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """A box bool (B, H, W) of about this share (B,) of the image at a random centre, cut off at the border,
    and what it leaves of the image (B,).
    """
    height, width = images.shape[-2:]
    inside = []
    for draw, side in ((3, height), (4, width)):
        half = area.sqrt() * side / 2
        centre = uniform(words, draw=draw).to(area) * side
        position = torch.arange(side, device=words.device) + 0.5
        inside.append((position - centre[:, None]).abs() < half[:, None])
    box = inside[0][:, :, None] & inside[1][:, None, :]
    return box, 1.0 - box.to(area).mean((1, 2))


@lru_cache(maxsize=8)
def _quantiles(alpha: float) -> Tensor:
    """Beta(alpha, alpha) at the middles of QUANTILES equal steps of probability, float32."""
    middles = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    return torch.from_numpy(betaincinv(alpha, alpha, middles.numpy())).float()
