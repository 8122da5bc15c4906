"""Transforms' meta parameters while a search learns them, beside the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from search.pathways.meta_parameters import MetaOwner, set_meta_parameters
from search.process.average import Average
from search.recipe import AnyPathway, Pathway, Process
from search.records import Learning

if TYPE_CHECKING:
    from search.training.losses import DistillationLosses

RATE_FACTOR = 0.1
"""Of the process's learning rate, which moves one number of a weight. Of these, more than a dozen add up to
one number of a kernel, and Adam's first steps are of full length for each."""


class LearnedMetaParameters:
    """Follows the hypergradient by meta parameters with Adam, and writes them into the transforms.

    Kept in float64, whatever the transforms compute in: a long search adds up many small updates. A transform
    none of whose pathways was active stays as it is, and Adam's moments of it too.
    """

    def __init__(self, losses: DistillationLosses, learning: Learning) -> None:
        self._losses = losses
        self._raw = {owner.prefix: _flat(owner).requires_grad_(True) for owner in losses.meta_owners()}
        rate = RATE_FACTOR * learning.learning_rate
        # As the process's.
        self._adam = torch.optim.Adam(self._raw.values(), lr=rate, betas=(0.5, 0.999)) if self._raw else None
        self._average = Average(learning.average_decay)

    def update(self, gradient: Tensor, *, active: Sequence[int]) -> None:
        """One step; `gradient` (M,) is by all of them, `active` are the pathways that were computed."""
        if self._adam is None:
            return
        owners = self._losses.meta_owners()
        parts = torch.split(gradient, [owner.size for owner in owners])
        for owner, part in zip(owners, parts, strict=True):
            is_active = not set(owner.pathways).isdisjoint(active)
            # Without a gradient Adam leaves a parameter and its moments alone.
            self._raw[owner.prefix].grad = part.clone() if is_active else None
        self._adam.step()
        self._average.add({name: value.detach() for name, value in self._raw.items()})
        for owner in owners:
            set_meta_parameters(owner.transform, self._raw[owner.prefix].detach())

    def recorded(self, process: Process) -> Process:
        """The process with what was learned so far in its pathways, averaged as the process is."""
        if not self._raw:
            return process
        values = self._average.of(self._raw)
        learned = {
            place: values[owner.prefix].tolist()
            for owner in self._losses.meta_owners()
            for place in owner.pathways
        }
        pathways: list[AnyPathway] = [
            one.model_copy(update={"parameters": learned[place]})
            if isinstance(one, Pathway) and place in learned
            else one
            for place, one in enumerate(process.pathways)
        ]
        return Process.model_validate(process.model_copy(update={"pathways": pathways}).model_dump())

    def state(self) -> dict[str, Any]:
        """All that is needed to continue, beside the transforms' own state."""
        return {
            "raw": {name: raw.detach().clone() for name, raw in self._raw.items()},
            "adam": self._adam.state_dict() if self._adam else {},
            "average": self._average.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        if self._adam is None:
            return
        with torch.no_grad():
            for name, raw in self._raw.items():
                raw.copy_(state["raw"][name])
        self._adam.load_state_dict(state["adam"])
        self._average.load(state["average"])


def _flat(owner: MetaOwner) -> Tensor:
    """On the CPU in float64, (N,)."""
    return torch.cat([value.detach().flatten().cpu().double() for value in owner.values().values()])
