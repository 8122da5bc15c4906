"""Models and images as the tests of this folder want them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from search.data import as_float
from search.models import TappedModel, build_model
from tests.search.synthetic import blobs


def build(name: str = "test_resnet", **changes: Any) -> TappedModel:
    """A model for ten classes of grey images, 32 pixels wide."""
    arguments: dict[str, Any] = {
        "classes": 10,
        "channels": 1,
        "input_size": 32,
        "seed": 0,
        "data_mean": (0.3,),
        "data_std": (0.25,),
    }
    return build_model(name, **{**arguments, **changes})


def images(count: int = 4, *, size: int = 32, channels: int = 1) -> Tensor:
    """Images in [0, 1]."""
    return as_float(blobs(count, seed=3, size=size, channels=channels).images)
