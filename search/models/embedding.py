"""Reading a network's embedding: what its classifier is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from search.models.watching import Seen, Watch

EMBEDDING = -1
"""Asked for beside stages, it is the embedding as a map of one place, (B, D, 1, 1)."""


class EmbeddingTap:
    """The input of the classifier, pooled; `width` is None for a network whose classifier is not found.

    Of a network with several classifiers (a distilled DeiT) it is the first one's.
    """

    def __init__(self, network: nn.Module, run: Callable[[], object]) -> None:
        """`run` passes two blank images through the network."""
        self._watch = Watch()
        self._name = _classifier_name(network)
        if self._name is not None:
            self._watch.inputs(network, self._name)
        self.width = self._width(run)

    def _width(self, run: Callable[[], object]) -> int | None:
        with self.watching() as seen, torch.no_grad():
            run()
        if self._name not in seen:
            return None
        found = self.read(seen)
        return found.shape[1] if found.shape[0] == 2 else None

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """What `read` reads from, while a pass is watched."""
        with self._watch.watching() as seen:
            yield seen

    def read(self, seen: Seen) -> Tensor:
        """(B, D, 1, 1): maps and tokens are averaged."""
        assert self._name is not None
        value = seen[self._name][-1]
        if value.ndim == 3:
            value = value.mean(dim=1)
        elif value.ndim == 4:
            value = value.mean(dim=(2, 3))
        return value[:, :, None, None]


def classifier_of(network: nn.Module) -> nn.Module | None:
    """The module that makes logits of the embedding; None where there is none to be found."""
    timm_network: Any = network
    found = timm_network.get_classifier() if hasattr(network, "get_classifier") else None
    classes = getattr(network, "num_classes", None)
    if isinstance(found, tuple | list):
        found = found[0]
    if isinstance(found, nn.Module) and not isinstance(found, nn.Identity):
        return found
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear and linear[-1].out_features == classes else None


def _classifier_name(network: nn.Module) -> str | None:
    classifier = classifier_of(network)
    return next((name for name, module in network.named_modules() if module is classifier), None)
