"""Finding the stages of any network, and reading them in the same pass as the logits."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from search.models.watching import Watch

MAX_STAGES = 5
EVEN_STAGES = 4
BLOCK_LISTS = ("stages", "blocks", "layers", "features")

Maps = dict[int, Tensor]
"""(B, C, H, W) by tap number."""


class Reader(Protocol):
    """One way to read a network's taps."""

    def __call__(self, network: nn.Module, images: Tensor, taps: Sequence[int]) -> tuple[Tensor, Maps]:
        """Logits (B, K) and the maps of these taps, in one pass."""
        ...


def read_intermediates(network: nn.Module, images: Tensor, taps: Sequence[int]) -> tuple[Tensor, Maps]:
    """By timm's `forward_intermediates`.

    Token models give their patch tokens as a grid; class and register tokens are dropped.
    """
    ordered = sorted(taps)
    timm_network: Any = network
    features, maps = timm_network.forward_intermediates(images, indices=ordered, output_fmt="NCHW")
    return timm_network.forward_head(features), dict(zip(ordered, maps, strict=True))


def read_prefix_tokens(network: nn.Module, images: Tensor, taps: Sequence[int]) -> Maps:
    """The class and register tokens (B, T, C) of these taps; empty where the network keeps none apart."""
    timm_network: Any = network
    intermediates = getattr(timm_network, "forward_intermediates", None)
    if intermediates is None or "return_prefix_tokens" not in inspect.signature(intermediates).parameters:
        return {}
    ordered = sorted(taps)
    found = intermediates(images, indices=ordered, return_prefix_tokens=True, intermediates_only=True)
    return {tap: pair[1] for tap, pair in zip(ordered, found, strict=True) if isinstance(pair, tuple)}


class HookReader:
    """By hooks on modules, in a network without usable `forward_intermediates`; tokens become grids."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._watch = Watch()
        for name in dict.fromkeys(names):
            self._watch.outputs(network, name)

    def __call__(self, network: nn.Module, images: Tensor, taps: Sequence[int]) -> tuple[Tensor, Maps]:
        with self._watch.watching() as seen:
            logits = network(images)
        prefix = getattr(network, "num_prefix_tokens", None)
        return logits, {tap: as_grid(seen[self.names[tap]][-1], prefix=prefix) for tap in taps}


def as_grid(value: Tensor, *, prefix: int | None = None) -> Tensor:
    """A map (B, C, H, W) of a module's output: of a map with channels first or last, or of tokens (B, N, C).

    The first `prefix` tokens are no part of the grid; where it is None they are what is left over a square.
    Raises ValueError for what is neither.
    """
    if value.ndim == 4:
        is_channels_last = value.shape[1] == value.shape[2] != value.shape[3]
        return value.permute(0, 3, 1, 2) if is_channels_last else value
    if value.ndim != 3:
        raise ValueError(f"{tuple(value.shape)} is neither a map nor tokens")
    count = value.shape[1]
    side = math.isqrt(count if prefix is None else count - prefix)
    if prefix is not None and side * side != count - prefix:
        raise ValueError(f"{count - prefix} tokens are no square")
    grid = value[:, count - side * side :]
    return grid.transpose(1, 2).reshape(len(value), value.shape[2], side, side)


def feature_info(network: nn.Module) -> list[dict[str, Any]]:
    """timm's own list of a network's stages; empty where it has none."""
    info = getattr(network, "feature_info", None) or []
    return list(info) if isinstance(info, list) else list(info.info)


def find_taps(network: nn.Module, images: Tensor) -> tuple[Reader, dict[int, tuple[int, int, int]]]:
    """The way to read the network's stages, and the chosen stages' shapes (C, H, W) by tap number.

    A way counts only if its logits are exactly the network's own and all its maps are (B, C, H, W). Tried are
    `forward_intermediates`, the modules that `feature_info` names, and the members of a list of stages or
    blocks. No stage is found in a network that offers none: it can be distilled by its logits only.
    """
    with torch.no_grad():
        expected = network(images)
        for way in (_by_intermediates, _by_feature_info, _by_blocks):
            try:
                reader, count = way(network, images)
                logits, maps = reader(network, images, range(count))
            except Exception:
                # timm's families refuse in many ways (AssertionError, TypeError, KeyError...): try the next.
                continue
            is_sound = all(value.ndim == 4 and len(value) == len(images) for value in maps.values())
            if maps and is_sound and torch.equal(logits, expected):
                return reader, _choose({tap: tuple(value.shape[1:]) for tap, value in maps.items()})
    return _read_logits_only, {}


def _read_logits_only(network: nn.Module, images: Tensor, taps: Sequence[int]) -> tuple[Tensor, Maps]:
    return network(images), {}


def _by_intermediates(network: nn.Module, images: Tensor) -> tuple[Reader, int]:
    timm_network: Any = network
    maps = timm_network.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    return read_intermediates, len(maps)


def _by_feature_info(network: nn.Module, images: Tensor) -> tuple[Reader, int]:
    names = [str(info["module"]) for info in feature_info(network)]
    return HookReader(network, names), len(names)


def _by_blocks(network: nn.Module, images: Tensor) -> tuple[Reader, int]:
    """The children of the first list of stages or blocks that there is."""
    for name in BLOCK_LISTS:
        children = getattr(network, name, None)
        if isinstance(children, nn.Sequential | nn.ModuleList) and len(children) > 1:
            names = [f"{name}.{index}" for index in range(len(children))]
            return HookReader(network, names), len(names)
    raise LookupError("there is no list of stages or blocks")


def _choose(shapes: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, int, int]]:
    """A handful of stages: all of a few, else the last of each shape, else four evenly spaced ones."""
    taps = list(shapes)
    if len(taps) > MAX_STAGES:
        last_of_shape = [
            a for a, b in zip(taps, [*taps[1:], None], strict=True) if b is None or shapes[a] != shapes[b]
        ]
        if not 3 <= len(last_of_shape) <= MAX_STAGES:
            last_of_shape = [taps[-(-len(taps) * (k + 1) // EVEN_STAGES) - 1] for k in range(EVEN_STAGES)]
        taps = last_of_shape
    return {tap: (shapes[tap][0], shapes[tap][1], shapes[tap][2]) for tap in taps}
