"""torch.compile for the student's training forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """The function, compiled for the shapes that it meets; the model's state and its names stay as they are.

    Random numbers are drawn as without compilation, because the hypergradient makes the same pass again,
    uncompiled, and dropout must drop the same.
    """
    return cast(Function, torch.compile(function, dynamic=False, options={"fallback_random": True}))
