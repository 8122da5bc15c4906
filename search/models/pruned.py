"""A network's weights without the smallest of them: magnitude pruning of all layers at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from search.models.tapped import TappedModel


class NoWeightsError(LookupError):
    """The network has no linear and no convolutional layer."""


class PrunedWeights:
    """The weights of all linear and convolutional layers, the smallest share of them set to zero.

    One limit for all layers (global unstructured L1 pruning), so that equal sizes at the limit go together;
    biases and normalisations stay. Made of the network's own weights at each call: nothing of them is kept.
    Raises NoWeightsError.
    """

    def __init__(self, model: TappedModel, share: float) -> None:
        self.model, self.share, self.names = model, share, prunable(model)
        self._largest_pruned: Tensor | None = None

    def __call__(self) -> dict[str, Tensor]:
        """By the names of the model's parameters, those that are pruned."""
        weights = {name: self.model.get_parameter(name).detach() for name in self.names}
        if self._largest_pruned is None:
            self._largest_pruned = largest_pruned(weights, self.share)
        limit = self._largest_pruned
        return {name: value * (value.abs() > limit.to(value.device)) for name, value in weights.items()}


def prunable(model: TappedModel) -> list[str]:
    """Names of the weights that are pruned, each once. Raises NoWeightsError."""
    layers = [module for module in model.network.modules() if isinstance(module, nn.Linear | _ConvNd)]
    weights = {id(layer.weight) for layer in layers}
    names = [name for name, value in model.named_parameters() if id(value) in weights]
    if not names:
        raise NoWeightsError(f"{model.name} has neither linear nor convolutional layers")
    return names


def largest_pruned(weights: dict[str, Tensor], share: float) -> Tensor:
    """The size, 0-dim, up to which weights belong to that share of all; -1 where it holds none."""
    sizes = torch.cat([value.abs().flatten() for value in weights.values()])
    count = round(share * len(sizes))
    return sizes.kthvalue(count).values if count else sizes.new_full((), -1.0)
