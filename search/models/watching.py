"""Seeing what goes through a network's modules while one pass is watched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Seen = dict[str, list[Tensor]]
"""By module, one tensor per time that it was called."""


class Watch:
    """Hooks on chosen modules that keep a tensor of each call, but only inside `watching`.

    The hooks stay installed, so that a network compiled by torch has them from the start, and follow copies
    of the network (`copy.deepcopy`). One pass of a network can be watched at a time.
    """

    def __init__(self) -> None:
        self.seen: Seen | None = None

    def outputs(self, network: nn.Module, name: str) -> None:
        """Keep what this module gives (the first of a tuple)."""
        network.get_submodule(name).register_forward_hook(_Keep(self, name, is_input=False))

    def inputs(self, network: nn.Module, name: str) -> None:
        """Keep what this module is given first."""
        network.get_submodule(name).register_forward_hook(_Keep(self, name, is_input=True))

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """What the modules are seen to do inside, filled as they are called."""
        seen: Seen = {}
        self.seen = seen
        try:
            yield seen
        finally:
            self.seen = None


class _Keep:
    # An object, not a closure: a copy of the network then keeps for the copy's own watch.
    def __init__(self, watch: Watch, name: str, *, is_input: bool) -> None:
        self.watch, self.name, self.is_input = watch, name, is_input

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        seen = self.watch.seen
        if seen is not None:
            value = inputs if self.is_input else output
            seen.setdefault(self.name, []).append(value[0] if isinstance(value, tuple | list) else value)
