"""Maps before a stage's last activation, where a stage ends in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from search.models.watching import Seen, Watch

ACTIVATION_MODULES = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")
NOT_ELEMENTWISE = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax, nn.GLU)


@dataclass(frozen=True)
class _Call:
    """One call of an activation module in a pass."""

    module: str
    number: int


class PreActivations:
    """The inputs of those activations whose outputs are tapped maps.

    A map that no activation gave (a residual sum without ReLU behind it, tokens) has none: its stage is
    tapped at its output.
    """

    def __init__(self, network: nn.Module, read: Callable[[], Mapping[int, Tensor]]) -> None:
        """Find them in one pass, that `read` makes; it gives the maps by tap number."""
        self._watch = Watch()
        self._calls = _find(network, read)
        for name in sorted({call.module for call in self._calls.values()}):
            self._watch.inputs(network, name)

    @property
    def taps(self) -> frozenset[int]:
        """The taps that have one."""
        return frozenset(self._calls)

    def replace(
        self, read: Callable[[], tuple[Tensor, dict[int, Tensor]]]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """What `read` gives in one pass, with the maps replaced by those before the activations."""
        with self._watch.watching() as seen:
            logits, maps = read()
        return logits, {tap: self._before(tap, value, seen) for tap, value in maps.items()}

    def _before(self, tap: int, value: Tensor, seen: Seen) -> Tensor:
        call = self._calls.get(tap)
        return value if call is None else seen[call.module][call.number]


def _find(network: nn.Module, read: Callable[[], Mapping[int, Tensor]]) -> dict[int, _Call]:
    given: list[tuple[_Call, Tensor]] = []
    counts: dict[str, int] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            number = counts.get(name, 0)
            counts[name] = number + 1
            if inputs and isinstance(inputs[0], Tensor) and inputs[0].shape == output.shape:
                given.append((_Call(name, number), output))

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in network.named_modules()
        if type(module).__module__ in ACTIVATION_MODULES and not isinstance(module, NOT_ELEMENTWISE)
    ]
    try:
        maps = read()
    finally:
        for handle in handles:
            handle.remove()
    # The very tensor, not an equal one: a map that was changed since is no activation's.
    return {tap: call for tap, value in maps.items() for call, output in given if output is value}
