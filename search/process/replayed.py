"""A recorded process, played over any number of steps."""

from __future__ import annotations

from typing import Any

import torch

from search.planning.process_table import ProcessTable
from search.process.effective import Effective
from search.recipe import Process
from search.temperature import TemperatureRules


class ReplayedProcess:
    """A recorded process, linearly interpolated to any number of steps; constant if it has one point.

    Temperature rules that make their own temperatures make them anew.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.rules = TemperatureRules(process)
        self._table = ProcessTable(process)

    def at(self, progress: float) -> Effective:
        """What holds at this progress in [0, 1]."""
        entropy, *rest = torch.from_numpy(self._table.at(progress)).tensor_split(self._table.cuts)
        return self.rules.applied(Effective(float(entropy), *rest), progress)

    def recorded(self, scales: list[float]) -> Process:
        """The process itself, with the scales that this replay measured."""
        return with_scales(self.process, scales)

    def state(self) -> dict[str, Any]:
        """That of the temperature rules: the rest is a function of progress."""
        return {"rules": self.rules.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.rules.load_state_dict(state.get("rules", {}))


def with_scales(process: Process, scales: list[float]) -> Process:
    """A copy whose pathways carry the scales once measured."""
    pathways = [
        pathway.model_copy(update={"scale": scale})
        for pathway, scale in zip(process.pathways, scales, strict=True)
    ]
    return Process.model_validate(process.model_copy(update={"pathways": pathways}).model_dump())
