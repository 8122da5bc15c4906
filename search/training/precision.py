"""A network in low precision as one function, which the training step and the hypergradient both call.

Parameters stay in float32 and are cast inside the function, by hand: forward-mode differentiation fails
inside `torch.autocast`, and a hypergradient has to differentiate the very function that was trained. Only
the network runs in low precision; its logits and maps come back in float32, so that losses, transforms and
BatchNorm's statistics stay exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from search.training.low_precision_values import ValuesIn, rounded

if TYPE_CHECKING:
    from search.models.tapped import TappedModel, Taps

Precision = Literal["float32", "bfloat16", "float16"]
_LOW: dict[Precision, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def forward_taps(
    model: TappedModel,
    images: Tensor,
    stages: Sequence[int],
    *,
    taps: Taps = "output",
    precision: Precision = "float32",
    parameters: Mapping[str, Tensor] | None = None,
    keep_buffers: bool = False,
    exact_tangents: bool = False,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits (B, K) and the maps (B, C, H, W) of these stages, in the type of the images.

    `parameters` by the model's names replace its own, for this call; with `keep_buffers` BatchNorm and the
    like write to copies of the model's buffers. Differentiable in the parameters, in either mode.
    `float32` is the type that the model has, so that a model in float64 runs in float64. With
    `exact_tangents` forward-mode tangents are not rounded to low precision
    (`search.training.low_precision_values`).
    """
    low = _LOW.get(precision)
    replaced: dict[str, Tensor] = dict(parameters or {})
    if keep_buffers:
        replaced |= {name: value.clone() for name, value in model.named_buffers()}
    if low is not None:
        replaced = dict(model.named_parameters()) | replaced
        replaced |= _lowered(model, replaced, low, exact_tangents=exact_tangents)
    if not replaced:
        return model.forward_taps(images, stages, taps=taps)
    with ValuesIn(low) if low is not None and exact_tangents else nullcontext():
        logits, maps = _call(_Taps(model, stages, taps), replaced, images, low)
    return logits.to(images.dtype), {stage: value.to(images.dtype) for stage, value in maps.items()}


def _call(
    tapped: _Taps, replaced: Mapping[str, Tensor], images: Tensor, low: torch.dtype | None
) -> tuple[Tensor, dict[int, Tensor]]:
    model = tapped.model
    before, model.input_dtype = model.input_dtype, low
    try:
        named = {
            f"model.{each}": value
            for name, value in replaced.items()
            for each in (name, *model.tied_names.get(name, ()))
        }
        # torch's own tie_weights puts back the wrong tensors where two places share a module.
        result: tuple[Tensor, dict[int, Tensor]] = torch.func.functional_call(
            tapped, named, (images,), tie_weights=False
        )
    finally:
        model.input_dtype = before
    return result


def _lowered(
    model: TappedModel, replaced: Mapping[str, Tensor], low: torch.dtype, *, exact_tangents: bool
) -> dict[str, Tensor]:
    """Parameters and buffers of the network in low precision: all but BatchNorm's, whose kernels take
    low-precision maps with parameters and statistics in float32.
    """
    values = dict(model.named_buffers()) | dict(replaced)
    exact = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    return {
        name: rounded(value, low) if exact_tangents else value.to(low)
        for name, value in values.items()
        if value.is_floating_point() and name.startswith(("network.", "part.")) and name not in exact
    }


class _Taps(nn.Module):
    """`forward_taps` as a module's forward, so that parameters and buffers can be replaced for one call."""

    def __init__(self, model: TappedModel, stages: Sequence[int], taps: Taps) -> None:
        super().__init__()
        self.model = model
        self.stages = list(stages)
        self.taps = taps

    def forward(self, images: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        return self.model.forward_taps(images, self.stages, taps=self.taps)
