"""Finding the stages of any timm network, and reading them in the same pass as the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MAX_STAGES = 5
EVEN_STAGES = 4

Taps = dict[int, Tensor]
Reader = Callable[[nn.Module, Tensor, Sequence[int]], tuple[Tensor, Taps]]


def read_intermediates(network: nn.Module, images: Tensor, taps: Sequence[int]) -> tuple[Tensor, Taps]:
    """Logits and the maps (B, C, H, W) of timm's numbered intermediates, by `forward_intermediates`.

    Token models give their patch tokens as a grid; class and register tokens are dropped.
    """
    ordered = sorted(taps)
    timm_network: Any = network
    features, maps = timm_network.forward_intermediates(images, indices=ordered, output_fmt="NCHW")
    return timm_network.forward_head(features), dict(zip(ordered, maps, strict=True))


def read_by_hooks(network: nn.Module, images: Tensor, taps: Sequence[int]) -> tuple[Tensor, Taps]:
    """Logits and maps of `feature_info`'s modules, for networks without usable `forward_intermediates`."""
    names = [str(info["module"]) for info in feature_info(network)]
    found: Taps = {}

    def keep(tap: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[tap] = output

        return hook

    handles = [network.get_submodule(names[tap]).register_forward_hook(keep(tap)) for tap in taps]
    try:
        logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return logits, {tap: found[tap] for tap in taps}


def feature_info(network: nn.Module) -> list[dict[str, Any]]:
    """timm's own list of a network's stages; empty where it has none."""
    info = getattr(network, "feature_info", None) or []
    return list(info) if isinstance(info, list) else list(info.info)


def find_taps(network: nn.Module, images: Tensor) -> tuple[Reader, dict[int, tuple[int, int, int]]]:
    """The way to read the network's stages, and the chosen stages' shapes (C, H, W) by tap number.

    A way counts only if its logits are exactly the network's own and all its maps are (B, C, H, W). No stage
    is found in a network that offers neither way: it can be distilled by its logits only.
    """
    with torch.no_grad():
        expected = network(images)
        for reader, count in ((read_intermediates, _count_intermediates), (read_by_hooks, _count_modules)):
            try:
                logits, maps = reader(network, images, range(count(network, images)))
            except Exception:
                # timm's families refuse in many ways (AssertionError, TypeError, KeyError...): try the next.
                continue
            is_sound = all(value.ndim == 4 and len(value) == len(images) for value in maps.values())
            if maps and is_sound and torch.equal(logits, expected):
                return reader, _choose({tap: tuple(value.shape[1:]) for tap, value in maps.items()})
    return _read_logits_only, {}


def _read_logits_only(network: nn.Module, images: Tensor, taps: Sequence[int]) -> tuple[Tensor, Taps]:
    return network(images), {}


def _count_intermediates(network: nn.Module, images: Tensor) -> int:
    timm_network: Any = network
    return len(timm_network.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW"))


def _count_modules(network: nn.Module, images: Tensor) -> int:
    return len(feature_info(network))


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
