"""Parameters of transforms that the meta loss teaches, and the training loss does not.

A transform that has some names them in `meta_parameters`. They are *buffers*: the training optimiser never
sees them. A search moves them by the hypergradient, as it moves weights and temperatures
(`search.process.meta_parameters`), a replay holds them as they were recorded. They go into recipes, so they
are to be few, and not to depend on how many channels the maps have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search.problems import SearchProblem


@dataclass(frozen=True)
class MetaOwner:
    """A transform that has meta parameters, and the pathways (by their places) that go through it."""

    prefix: str  # of its parameters' names, in what holds the pathways
    transform: nn.Module
    pathways: tuple[int, ...]

    def values(self) -> dict[str, Tensor]:
        """The parameters by their full names, in the transform's order."""
        return {f"{self.prefix}.{name}": value for name, value in meta_parameters(self.transform).items()}

    @property
    def size(self) -> int:
        """How many numbers they are."""
        return sum(value.numel() for value in self.values().values())


def meta_parameters(transform: nn.Module) -> dict[str, Tensor]:
    """By the transform's own names; empty for most transforms."""
    names: tuple[str, ...] = getattr(transform, "meta_parameters", ())
    return {name: transform.get_buffer(name) for name in names}


def meta_owners(transforms: Iterable[tuple[int, str, nn.Module]]) -> list[MetaOwner]:
    """Of (pathway's place, its transform's name, transform); a shared transform once, by its first name."""
    shared: dict[int, list[tuple[int, str, nn.Module]]] = {}
    for one in transforms:
        if meta_parameters(one[2]):
            shared.setdefault(id(one[2]), []).append(one)
    return [
        MetaOwner(ones[0][1], ones[0][2], tuple(place for place, _, _ in ones)) for ones in shared.values()
    ]


@torch.no_grad()
def set_meta_parameters(transform: nn.Module, values: Tensor) -> None:
    """Take all of them from one vector, in the transform's order."""
    parameters = meta_parameters(transform)
    sizes = [parameter.numel() for parameter in parameters.values()]
    for parameter, part in zip(parameters.values(), torch.split(values, sizes), strict=True):
        parameter.copy_(part.view_as(parameter))


def load_meta_parameters(transform: nn.Module, values: Sequence[float], *, pathway: str) -> None:
    """Take them from a recipe. Raises SearchProblem where the transform does not have so many."""
    size = sum(parameter.numel() for parameter in meta_parameters(transform).values())
    if len(values) != size:
        raise SearchProblem(
            f"pathway {pathway} has {len(values)} parameters, but its transform learns {size} from the meta "
            "loss: leave out the pathway's `parameters`, or give it the transform they were learned for",
            code="pathway_does_not_fit",
        )
    set_meta_parameters(transform, torch.tensor(values, dtype=torch.float64))
