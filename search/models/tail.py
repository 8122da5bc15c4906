"""The rest of a network from one of its stages on, frozen, as a function of that stage's map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from search.models.tapped import TappedModel, evaluating

Layout = Literal["channels_first", "channels_last", "tokens"]
LAYOUTS: tuple[Layout, ...] = ("channels_first", "channels_last", "tokens")
IMAGES = 2
CLOSE = 1e-4
"""Of the last map's largest value: a pass from the middle repeats a whole one as exactly as that."""


class NoTailError(LookupError):
    """No module of the network gives that stage's map, and nothing else, to what comes after it."""


class Output(NamedTuple):
    """What the module of that name gave in one call."""

    name: str
    value: Any


class Tail:
    """From a stage's map (B, C, H, W) to the last stage's.

    The network runs on black images, and its module that gives the stage is overruled; class and register
    tokens are those of the black images. It is in evaluation mode for that time. Gradients reach the map, and
    no parameter. `shape` is that of one map, (C, H, W). Raises NoTailError.
    """

    def __init__(self, model: TappedModel, stage: int) -> None:
        self.model, self.stage, self.last = model, stage, len(model.stages) - 1
        if not 0 <= stage < self.last:
            raise NoTailError(f"{model.name} has no stage behind stage {stage}")
        self.name, self.layout, self.shape = self._find()

    def __call__(self, feature_map: Tensor) -> Tensor:
        """The last stage's map (B, C, H, W)."""
        like = next(self.model.parameters())
        given = feature_map.to(like.dtype)

        def overrule(output: Any) -> Any:
            own = _first(output)
            return _with_first(output, _as_own(given, own, self.layout))

        images = self._black(len(given))
        # Fused attention has no forward-mode derivative, and no second one.
        with _overruling(self._module(self.name), overrule), sdpa_kernel(SDPBackend.MATH):
            maps = self._run(images, [self.last])
        return maps[self.last].to(feature_map.dtype)

    def _find(self) -> tuple[str, Layout, tuple[int, int, int]]:
        """The last module that gives the stage's map, and that alone decides what the last stage's is."""
        with torch.no_grad():
            one, other = (self._noise(seed) for seed in (1, 2))
            outputs, maps = self._recorded(one)
            others = dict(self._recorded(other)[0])
            expected = self._run(other, [self.last])[self.last]
            for name, output in reversed(outputs):
                layout = _layout_of(_first(output), maps[self.stage])
                if layout is not None and self._decides(name, one, others[name], expected):
                    channels, height, width = maps[self.stage].shape[1:]
                    return name, layout, (channels, height, width)
        raise NoTailError(f"no module of {self.model.name} gives the map of stage {self.stage} as it is")

    def _decides(self, name: str, images: Tensor, output: Any, expected: Tensor) -> bool:
        """Whether that output of the module leads to that last map, whatever the images are."""
        with _overruling(self._module(name), lambda _: output):
            found = self._run(images, [self.last])[self.last]
        return bool((found - expected).abs().max() <= CLOSE * expected.abs().max())

    def _recorded(self, images: Tensor) -> tuple[list[Output], dict[int, Tensor]]:
        """What each module gave, in the order in which they came to an end, and the stage's map."""
        outputs: list[Output] = []
        with ExitStack() as hooks:
            for name, module in self.model.network.named_modules():
                hooks.enter_context(_overruling(module, _keeper(name, outputs)))
            return outputs, self._run(images, [self.stage])

    def _module(self, name: str) -> nn.Module:
        return self.model.network.get_submodule(name)

    def _black(self, count: int) -> Tensor:
        model = self.model
        shape = (count, len(model.preprocessing.mean), model.data_size, model.data_size)
        return next(model.parameters()).new_zeros(shape)

    def _noise(self, seed: int) -> Tensor:
        black = self._black(IMAGES)
        return torch.rand(black.shape, generator=torch.Generator().manual_seed(seed)).to(black)

    def _run(self, images: Tensor, stages: Sequence[int]) -> dict[int, Tensor]:
        """The maps of these stages, with parameters as constants."""
        constants = {
            f"model.{each}": value.detach()
            for name, value in self.model.named_parameters()
            for each in (name, *self.model.tied_names.get(name, ()))
        }
        with evaluating(self.model):
            maps: dict[int, Tensor] = torch.func.functional_call(
                _Maps(self.model, stages), constants, (images,), tie_weights=False
            )
        return maps


class _Maps(nn.Module):
    def __init__(self, model: TappedModel, stages: Sequence[int]) -> None:
        super().__init__()
        self.model, self.stages = model, stages

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        return self.model.forward_taps(images, self.stages)[1]


@contextmanager
def _overruling(module: nn.Module, change: Callable[[Any], Any]) -> Iterator[None]:
    """Inside, the module gives what the function makes of its output; None leaves it as it is."""
    handle = module.register_forward_hook(lambda _module, _inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()


def _keeper(name: str, outputs: list[Output]) -> Callable[[Any], None]:
    return lambda output: outputs.append(Output(name, output))


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple | list) and output else output


def _with_first(output: Any, first: Tensor) -> Any:
    return type(output)([first, *output[1:]]) if isinstance(output, tuple | list) else first


def _layout_of(value: Any, feature_map: Tensor) -> Layout | None:
    """How a module's value holds that map; None where it does not."""
    if not isinstance(value, Tensor):
        return None
    return next((layout for layout in LAYOUTS if _holds(value, feature_map, layout)), None)


def _holds(value: Tensor, feature_map: Tensor, layout: Layout) -> bool:
    if value.ndim != (3 if layout == "tokens" else 4) or len(value) != len(feature_map):
        return False
    own = _as_own(feature_map, value, layout)
    return own.shape == value.shape and torch.equal(own, value)


def _as_own(feature_map: Tensor, own: Tensor, layout: Layout) -> Tensor:
    """A map as the module gives it; tokens before those of the map's places are the module's own."""
    if layout == "channels_first":
        return feature_map
    if layout == "channels_last":
        return feature_map.movedim(1, -1)
    tokens = feature_map.flatten(2).transpose(1, 2)
    prefix = own.shape[1] - tokens.shape[1]
    if prefix <= 0 or own.shape[2] != tokens.shape[2]:
        return tokens
    return torch.cat([own[:, :prefix], tokens], dim=1)
