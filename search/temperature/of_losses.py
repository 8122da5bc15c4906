"""The temperature rules of a process's logit losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from search import registry
from search.problems import SearchProblem
from search.recipe import Process, TemperatureRule
from search.registry import InvalidConfigError, Kind, UnknownMethodError
from search.temperature.contract import TemperatureRuleModule

if TYPE_CHECKING:
    from search.process import Effective


def build_temperature_rule(name: str, config: Mapping[str, JsonValue] | None = None) -> TemperatureRuleModule:
    """The rule of that name with these settings (others: their defaults).

    Raises UnknownMethodError, which names those there are, and InvalidConfigError.
    """
    rule: TemperatureRuleModule = registry.get(Kind.TEMPERATURE_RULE, name).build(config=config)
    return rule


class TemperatureRules(nn.Module):
    """One rule for each logit loss that has one; the temperatures of the others are as the process says.

    Raises SearchProblem `unknown_method` for a rule, or settings, that there are not.
    """

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.losses = len(process.logit_losses)
        self._of_loss = {
            index: _built(loss.temperature_rule)
            for index, loss in enumerate(process.logit_losses)
            if loss.temperature_rule is not None
        }
        # So that their state is this module's.
        self.rules = nn.ModuleDict({str(index): rule for index, rule in self._of_loss.items()})

    @property
    def follow_training(self) -> bool:
        """Whether any of them is to be shown the steps."""
        return any(rule.follows_training for rule in self._of_loss.values())

    def moved(self, *, by_default: bool) -> Tensor:
        """(L,) float64: 1 where a search moves the loss's temperatures, 0 elsewhere."""
        rules = (self._of_loss.get(index) for index in range(self.losses))
        is_moved = [by_default if rule is None else rule.is_learned for rule in rules]
        return torch.tensor(is_moved, dtype=torch.float64)

    def applied(self, effective: Effective, progress: float) -> Effective:
        """What holds at this progress, where the process says `effective`."""
        if not self._of_loss:
            return effective
        pairs = list(zip(effective.teacher_temperatures, effective.student_temperatures, strict=True))
        for index, rule in self._of_loss.items():
            pairs[index] = rule(pairs[index], progress)
        teacher, student = (torch.stack(side) for side in zip(*pairs, strict=True))
        return replace(effective, teacher_temperatures=teacher, student_temperatures=student)

    def observe(
        self, student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, progress: float
    ) -> None:
        """Show a step to the rules that follow the training."""
        for rule in self._of_loss.values():
            if rule.follows_training:
                rule.observe(student_logits, teacher_logits, targets, progress=progress)


def _built(rule: TemperatureRule) -> TemperatureRuleModule:
    try:
        return build_temperature_rule(rule.name, rule.config)
    except (UnknownMethodError, InvalidConfigError) as error:
        raise SearchProblem(
            f"{error}; is a plug-in missing that the process needs?", code="unknown_method"
        ) from error
