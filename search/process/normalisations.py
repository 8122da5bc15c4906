"""From free parameters to weights, and back: what makes pathway weights positive, bounded or competing.

All of DistPro's, and independent softplus weights, the default: on unit-scaled losses a pathway that pays
grows without taking from another.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from search.problems import SearchProblem
from search.registry import Kind, register

DISTPRO = "DistPro, Deng et al. 2022, arXiv 2204.05547, released code's style"
EPSILON = 1e-12


class Normalisation(Protocol):
    """Maps unconstrained parameters to positive weights, differentiably, and back."""

    def weights(self, raw: Tensor) -> Tensor:
        """(N,) -> (N,), positive."""
        ...

    def raw(self, weights: Tensor) -> Tensor:
        """The inverse of `weights`. Where the total is fixed, the proportions alone are kept.

        Raises SearchProblem `bad_start` for weights out of reach.
        """
        ...


@register(Kind.NORMALISATION, "softplus", source="Limbeck; on unit-scaled losses")
class Softplus:
    """Independent weights log(1 + exp(raw)): no pathway competes with another for a fixed total."""

    def weights(self, raw: Tensor) -> Tensor:
        return F.softplus(raw)

    def raw(self, weights: Tensor) -> Tensor:
        return weights + torch.log(-torch.expm1(-weights))


@register(Kind.NORMALISATION, "constant", source=f"{DISTPRO} 0")
class Constant:
    """The starting weights, which are not learned: logit weights and temperatures alone are."""

    def weights(self, raw: Tensor) -> Tensor:
        return raw.detach()

    def raw(self, weights: Tensor) -> Tensor:
        return weights.clone()


@register(Kind.NORMALISATION, "softmax", source=f"{DISTPRO} 1")
class Softmax:
    """Shares of a total of 1, whatever the starting weights' total: of these the proportions are kept."""

    def weights(self, raw: Tensor) -> Tensor:
        return torch.softmax(raw, dim=0)

    def raw(self, weights: Tensor) -> Tensor:
        return torch.log(weights)


@register(Kind.NORMALISATION, "biased_softmax_share", source=f"{DISTPRO} 2")
class BiasedSoftmaxShare:
    """Softmax with an appended constant logit 1, a pathway to nowhere: all may fade to 0; total below 1."""

    def weights(self, raw: Tensor) -> Tensor:
        null = torch.ones(1, dtype=raw.dtype, device=raw.device)
        return torch.softmax(torch.cat([raw, null]), dim=0)[:-1]

    def raw(self, weights: Tensor) -> Tensor:
        _require_total_below(weights, 1.0, "biased_softmax_share")
        return torch.log(weights / (1.0 - weights.sum())) + 1.0


@register(Kind.NORMALISATION, "biased_softmax", source=f"{DISTPRO} 333")
class BiasedSoftmax:
    """DistPro's softmax with an appended constant logit 1, times the number of pathways; mean below 1."""

    def weights(self, raw: Tensor) -> Tensor:
        return BiasedSoftmaxShare().weights(raw) * len(raw)

    def raw(self, weights: Tensor) -> Tensor:
        _require_total_below(weights, max(len(weights), 1), "biased_softmax")
        return BiasedSoftmaxShare().raw(weights / max(len(weights), 1))


@register(Kind.NORMALISATION, "sigmoid", source=f"{DISTPRO} 3")
class Sigmoid:
    """Independent weights 1 / (1 + exp(-raw)), each below 1."""

    def weights(self, raw: Tensor) -> Tensor:
        return torch.sigmoid(raw)

    def raw(self, weights: Tensor) -> Tensor:
        if bool((weights >= 1).any()):
            raise _bad_start("sigmoid", "each below 1")
        return torch.logit(weights)


@register(Kind.NORMALISATION, "absolute", source=f"{DISTPRO} 4")
class Absolute:
    """Independent weights |raw|: a weight that is pushed below zero comes back up."""

    def weights(self, raw: Tensor) -> Tensor:
        return raw.abs()

    def raw(self, weights: Tensor) -> Tensor:
        return weights.clone()


@register(Kind.NORMALISATION, "absolute_share", source=f"{DISTPRO} 5")
class AbsoluteShare:
    """3 |raw| / sum |raw|: a total of 3; of the starting weights the proportions are kept.

    Parameters start at 1 on average, as DistPro's do: a learning rate has to do with their size.
    """

    def weights(self, raw: Tensor) -> Tensor:
        return 3.0 * raw.abs() / (raw.abs().sum() + EPSILON)

    def raw(self, weights: Tensor) -> Tensor:
        return weights / weights.mean() if len(weights) else weights.clone()


@register(Kind.NORMALISATION, "absolute_bounded", source=f"{DISTPRO} 6")
class AbsoluteBounded:
    """10 |raw| / (1 + sum |raw|): a total below 10, and all may fade to 0."""

    def weights(self, raw: Tensor) -> Tensor:
        return 10.0 * raw.abs() / (1.0 + raw.abs().sum())

    def raw(self, weights: Tensor) -> Tensor:
        _require_total_below(weights, 10.0, "absolute_bounded")
        return weights / (10.0 - weights.sum())


def _require_total_below(weights: Tensor, most: float, name: str) -> None:
    if float(weights.sum()) >= most:
        is_mean = len(weights) > 1 and most == len(weights)
        raise _bad_start(name, "below 1 on average" if is_mean else f"below {most:g} in all")


def _bad_start(name: str, needed: str) -> SearchProblem:
    return SearchProblem(
        f"{name} needs starting weights {needed}: lower search.process.initial_pathway_weight, or raise "
        "search.process.pathway_weight_factor, by which they are divided",
        code="bad_start",
    )
