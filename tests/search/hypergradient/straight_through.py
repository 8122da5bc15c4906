"""A bfloat16 network with its own values and with exact derivatives, in reverse mode: the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from search.models.tapped import TappedModel

IN_PLACE = {"__iadd__": Tensor.add, "__imul__": Tensor.mul, "add_": Tensor.add, "mul_": Tensor.mul}


class _Through(torch.autograd.Function):
    """The second argument's value, the first one's derivative."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, value: Tensor) -> Tensor:
        return value.to(exact.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def low(value: Any) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().bfloat16() if is_float else value


class StraightThrough(TorchFunctionMode):
    is_inside = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if not self.is_inside:
            if name == "to" and torch.bfloat16 in args:
                self.is_inside = True
                return _Through.apply(args[0], low(args[0]))
            return func(*args, **kwargs)
        if name in ("__get__", "detach"):
            return func(*args, **kwargs)
        func = IN_PLACE.get(name, func)
        exact = func(*args, **kwargs)
        if not (isinstance(exact, Tensor) and exact.is_floating_point()):
            return exact
        if name == "batch_norm":
            rest = [other.detach().clone() if isinstance(other, Tensor) else other for other in args[1:]]
            value = func(low(args[0]), *rest, **kwargs)
        else:
            value = func(*map(low, args), **{key: low(item) for key, item in kwargs.items()})
        return _Through.apply(exact, value)


def straight_through(
    model: TappedModel, images: Tensor, stages: Any, *, parameters: dict[str, Tensor], **_: Any
) -> tuple[Tensor, dict[int, Tensor]]:
    """In the place of `search.training.precision.forward_taps`; parameters are float32."""
    norms = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for name in ("weight", "bias")
    }
    replaced = {
        name: value if name in norms else _Through.apply(value, low(value))
        for name, value in parameters.items()
    } | {name: value.clone() for name, value in model.named_buffers()}

    class Tapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Any:
            return self.model.forward_taps(images, stages)

    model.input_dtype = torch.bfloat16
    try:
        with StraightThrough():
            named = {f"model.{name}": value for name, value in replaced.items()}
            result: tuple[Tensor, dict[int, Tensor]] = torch.func.functional_call(Tapped(), named, (images,))
    finally:
        model.input_dtype = None
    return result
