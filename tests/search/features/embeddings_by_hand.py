"""Pairs of embeddings known by their widths, and formulas in numpy, for tests of losses on them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from pydantic import JsonValue
from scipy import special
from torch import Tensor, nn

from search.features import (
    FeatureLossModule,
    ModelOutputs,
    Pair,
    Seen,
    Side,
    build_feature_loss,
)
from search.models.embedding import EMBEDDING
from tests.search.features.seen import CLASSES, IMAGES

Array = npt.NDArray[np.float64]
BATCH, WIDTHS = 9, (7, 12)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def widths(student: int = WIDTHS[0], teacher: int = WIDTHS[1], *, images: int = IMAGES) -> Pair:
    """A pair of models of which only the embeddings' widths are known."""
    return Pair(Side([], student, "student"), Side([], teacher, "teacher"), classes=CLASSES, images=images)


def made(name: str, of: Pair | None = None, **config: JsonValue) -> FeatureLossModule:
    return build_feature_loss(name, config, pair=of or widths()).double()


def saying(embedding: Tensor, *, seed: int = 8) -> ModelOutputs:
    logits = 2 * noise(len(embedding), CLASSES, seed=seed)
    return ModelOutputs(logits, {EMBEDDING: embedding[:, :, None, None]})


def step(student: Tensor, teacher: Tensor) -> Seen:
    """A batch of the first images, by both embeddings."""
    rows = torch.arange(len(student))
    return Seen(saying(student), saying(teacher, seed=9), rows % CLASSES, rows)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Of student and teacher."""
    return noise(BATCH, WIDTHS[0], seed=seed), noise(BATCH, WIDTHS[1], seed=seed + 100)


def of_peer(loss: nn.Module, student: Tensor, teacher: Tensor) -> float:
    """What torchdistill's loss says; its paths are all called "at"."""
    return float(loss({"at": {"output": student}}, {"at": {"output": teacher}}))


def kl(target: Array, other: Array) -> Array:
    divergence: Array = special.rel_entr(target, other).sum(axis=-1)
    return divergence
