"""Pairs known by their stages, maps at hand, and formulas in numpy, for tests of losses on stage maps."""

from __future__ import annotations

from collections.abc import Sequence

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
from search.recipe import Stage
from tests.search.features.seen import IMAGES

Array = npt.NDArray[np.float64]
BATCH, CLASSES = 6, 4
Shape = tuple[int, int]
"""Channels and side."""
STUDENT: Sequence[Shape] = ((4, 8), (6, 4), (8, 2))
TEACHER: Sequence[Shape] = ((5, 4), (8, 4), (7, 1))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def side(shapes: Sequence[Shape], name: str) -> Side:
    deepest = max(len(shapes) - 1, 1)
    stages = [
        Stage(index=place, channels=channels, reduction=16 / length, depth=place / deepest)
        for place, (channels, length) in enumerate(shapes)
    ]
    return Side(stages, None, name)


def models(student: Sequence[Shape] = STUDENT, teacher: Sequence[Shape] = TEACHER) -> Pair:
    """A pair of models of which only the stages are known."""
    return Pair(side(student, "student"), side(teacher, "teacher"), classes=CLASSES, images=IMAGES)


def made(name: str, of: Pair | None = None, **config: JsonValue) -> FeatureLossModule:
    return build_feature_loss(name, config, pair=of or models()).double()


def saying(shapes: Sequence[Shape], *, seed: int, images: int = BATCH) -> ModelOutputs:
    maps = {
        place: noise(images, channels, length, length, seed=seed + place)
        for place, (channels, length) in enumerate(shapes)
    }
    return ModelOutputs(2 * noise(images, CLASSES, seed=seed + 50), maps)


def batch(student: Sequence[Shape] = STUDENT, teacher: Sequence[Shape] = TEACHER, *, seed: int = 0) -> Seen:
    rows = torch.arange(BATCH)
    return Seen(saying(student, seed=seed), saying(teacher, seed=seed + 100), rows * 3 % CLASSES, rows)


def learning(outputs: ModelOutputs) -> ModelOutputs:
    return ModelOutputs(
        outputs.logits.requires_grad_(), {tap: each.requires_grad_() for tap, each in outputs.maps.items()}
    )


def of_module(value: Tensor) -> Array:
    found: Array = value.detach().numpy()
    return found


def one_by_one(layer: nn.Module, maps: Array) -> Array:
    """A 1x1 convolution (B, C, H, W), by its weights."""
    assert isinstance(layer, nn.Conv2d)
    mapped: Array = np.einsum("oi,bihw->bohw", of_module(layer.weight)[:, :, 0, 0], maps)
    return mapped if layer.bias is None else mapped + of_module(layer.bias)[:, None, None]


def three_by_three(layer: nn.Module, maps: Array) -> Array:
    """A 3x3 convolution (B, C, H, W) with zeros around, by its weights."""
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    framed = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(framed, (3, 3), axis=(2, 3))
    mapped: Array = np.einsum("oikl,bihwkl->bohw", of_module(layer.weight), windows)
    return mapped + of_module(layer.bias)[:, None, None]


def linear(layer: nn.Module, values: Array) -> Array:
    """Of values (B, C), by its weights."""
    assert isinstance(layer, nn.Linear)
    mapped: Array = values @ of_module(layer.weight).T + of_module(layer.bias)
    return mapped


def p(logits: Array, temperature: float = 1.0) -> Array:
    softened: Array = special.softmax(logits / temperature, axis=1)
    return softened


def kl(target: Array, other: Array) -> float:
    """The mean over rows."""
    return float(special.rel_entr(target, other).sum(axis=1).mean())


def cross_entropy(logits: Array, labels: Array) -> float:
    """The mean over rows, with label distributions (B, K)."""
    return float(-(labels * special.log_softmax(logits, axis=1)).sum(axis=1).mean())


def one_hot(targets: Tensor) -> Array:
    labels: Array = np.eye(CLASSES)[targets.numpy()]
    return labels


def averaged(maps: Array, side: int) -> Array:
    """Over equal cells, down to a side that divides."""
    images, channels, length, _ = maps.shape
    cells = maps.reshape(images, channels, side, length // side, side, length // side)
    means: Array = cells.mean(axis=(3, 5))
    return means
