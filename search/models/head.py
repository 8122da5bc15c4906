"""A network's classifier as a matrix, where it is one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from search.devices import whole_float32
from search.models.embedding import EMBEDDING, classifier_of

if TYPE_CHECKING:
    from search.models.tapped import TappedModel

CLOSE = 1e-4
"""Of the largest logit: what rounding in float32 leaves between two ways to the same."""
IMAGES = 4


class LinearHead(NamedTuple):
    """Weight (K, D) and bias (K,)."""

    weight: Tensor
    bias: Tensor


def linear_head(model: TappedModel) -> LinearHead | None:
    """The classifier, where logits are a linear function of the embedding; None where they are not."""
    classifier = classifier_of(model.network)
    if not isinstance(classifier, nn.Linear) or model.embedding_width != classifier.in_features:
        return None
    weight = classifier.weight.detach()
    bias = weight.new_zeros(len(weight)) if classifier.bias is None else classifier.bias.detach()
    logits, maps = _noise_outputs(model, [EMBEDDING])
    found = F.linear(maps[EMBEDDING].flatten(1), weight, bias)
    return LinearHead(weight.clone(), bias.clone()) if _close(found, logits) else None


def pools_last_map(model: TappedModel) -> bool:
    """Whether the embedding is the mean over places of the last stage's map: nothing else lies between.

    Looked at with other biases, scales and statistics, as training gives: a norm that was never trained is
    the identity, or nearly.
    """
    if not model.stages or model.embedding_width is None:
        return False
    last = model.stages[-1].index
    _, maps = _noise_outputs(_shaken(model), [last, EMBEDDING])
    pooled, embedding = maps[last].mean(dim=(2, 3)), maps[EMBEDDING].flatten(1)
    return pooled.shape == embedding.shape and _close(pooled, embedding)


def _shaken(model: TappedModel) -> TappedModel:
    """A copy whose vectors, which are biases, scales and statistics of norms, are others."""
    shaken = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in shaken.network.state_dict().values():
            if value.ndim == 1 and value.is_floating_point():
                value.mul_(0.5 + torch.rand(value.shape, generator=generator).to(value)).add_(0.1)
    return shaken


def _noise_outputs(model: TappedModel, taps: list[int]) -> tuple[Tensor, dict[int, Tensor]]:
    from search.models.tapped import evaluating

    like = next(model.parameters())
    shape = (IMAGES, len(model.preprocessing.mean), model.data_size, model.data_size)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad(), evaluating(model), whole_float32():
        return model.forward_taps(noise, taps)


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= CLOSE * other.abs().max())
