"""Modules of a loss that no optimiser is to train."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def frozen(module: M) -> M:
    """The same module, with buffers in its parameters' places."""
    for part in module.modules():
        for name, value in [*part.named_parameters(recurse=False)]:
            delattr(part, name)
            part.register_buffer(name, value.detach())
    return module
