"""The values of a low-precision network with tangents in float32, for forward-mode differentiation.

In bfloat16 a tangent is rounded at every operation, and a hypergradient, a small sum of large terms, is then
wrong by 1% to 3%. Here every operation of the network runs twice: in float32 on dual numbers for the tangent,
and in low precision for the value, so that the function differentiated is the one that was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.autograd.forward_ad as fwd
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

# These move or select values that are in low precision already.
MOVING = {
    *("__get__", "__set__", "__getitem__", "__setitem__", "size", "dim", "numel", "to", "detach", "clone"),
    *("contiguous", "copy_", "zero_", "new_empty", "new_zeros", "view", "reshape", "flatten", "unflatten"),
    *("permute", "transpose", "swapaxes", "movedim", "squeeze", "unsqueeze", "expand", "repeat", "flip"),
    *("roll", "pad", "chunk", "split", "unbind", "stack", "cat", "relu", "max_pool2d"),
}
# Run twice, these would draw twice.
DRAWING = {
    *("dropout", "dropout2d", "alpha_dropout", "feature_dropout", "bernoulli", "bernoulli_", "uniform_"),
    *("normal_", "rand", "rand_like", "randn", "randn_like", "randperm"),
}


class ValuesIn(TorchFunctionMode):
    """Inside, under a dual level and without gradients, what follows the cast of the network's input to the
    low type is computed as above; all tensors are float32 and hold numbers of the low type.
    """

    def __init__(self, low: torch.dtype) -> None:
        super().__init__()
        self.low = low
        self._is_inside = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if not self._is_inside:
            if name == "to" and self.low in args:
                self._is_inside = True
                return rounded(args[0], self.low)
            return func(*args, **kwargs)
        if name in DRAWING or kwargs.get("dropout_p"):
            return tree_map(self._rounded, func(*args, **kwargs))
        if name in MOVING or not any(_is_float(value) for value in args):
            return func(*args, **kwargs)
        replaced = _out_of_place(name)
        result = self._both(replaced or func, name, args, kwargs)
        # What holds the tensor sees the operation's result, as it would have in place.
        return args[0].copy_(result) if replaced is not None else result

    def _both(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = func(*args, **kwargs)
        if not any(_is_float(value) for value in (result if isinstance(result, tuple | list) else [result])):
            return result
        # BatchNorm's own parameters and statistics are in float32.
        lowered = (
            [self._lowered(args[0]), *tree_map(_own, list(args[1:]))]
            if name == "batch_norm"
            else tree_map(self._lowered, list(args))
        )
        values = func(*lowered, **tree_map(_own if name == "batch_norm" else self._lowered, kwargs))
        return tree_map(_with_value, result, values)

    def _lowered(self, value: Any) -> Any:
        return _primal(value).to(self.low) if _is_float(value) else value

    def _rounded(self, value: Any) -> Any:
        return rounded(value, self.low) if _is_float(value) else value


def rounded(value: Tensor, low: torch.dtype) -> Tensor:
    """The nearest numbers of the low type, in the value's own type and with its tangent."""
    return _with_value(value, _primal(value).to(low))  # type: ignore[no-any-return]


def _with_value(result: Any, value: Any) -> Any:
    if not _is_float(result):
        return result
    tangent = fwd.unpack_dual(result).tangent  # type: ignore[no-untyped-call]
    plain = value.to(result.dtype)
    return plain if tangent is None else fwd.make_dual(plain, tangent)  # type: ignore[no-untyped-call]


def _out_of_place(name: str) -> Callable[..., Any] | None:
    """The operation that an in-place one does in place; None for those that are not in place."""
    if name.startswith("__i") and name.endswith("__"):
        return getattr(Tensor, f"__{name[3:]}", None)
    if name.endswith("_") and not name.endswith("__"):
        return getattr(Tensor, name[:-1], None)
    return None


def _primal(value: Tensor) -> Tensor:
    primal: Tensor = fwd.unpack_dual(value).primal  # type: ignore[no-untyped-call]
    return primal


def _own(value: Any) -> Any:
    return _primal(value).clone() if _is_float(value) else value


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
