"""Methods with settings as choices: the settings' dimensions, and what a trial's choices mean. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from search.dimensions import Choices, Dimension, Interval, Options
from search.recipe import LogitLoss
from search.spec import MethodUse, Range, Space, searched_settings

LOGIT_LOSSES = "logit_losses"


def setting_dimensions(space: Space) -> list[Dimension]:
    """One dimension for each setting that is searched; those of a method that was not chosen mean nothing."""
    uses = (use for uses in space.logit_losses for use in uses)
    found = {f"{LOGIT_LOSSES}.{name}.{setting}": how for name, setting, how in searched_settings(uses)}
    return [
        Interval(name, how.low, how.high, how.log) if isinstance(how, Range) else Options(name, tuple(how))
        for name, how in found.items()
    ]


def as_losses(uses: list[str | MethodUse]) -> list[JsonValue]:
    """A choice of losses as a value of a choice."""
    return [use if isinstance(use, str) else use.model_dump(mode="json") for use in uses]


def logit_losses_of(choices: Choices) -> list[LogitLoss]:
    """The losses that these choices mean, each once, with the settings that were drawn."""
    found: list[LogitLoss] = []
    for loss in _chosen(choices):
        if loss not in found:
            found.append(loss)
    return found


def _chosen(choices: Choices) -> Iterator[LogitLoss]:
    losses = choices[LOGIT_LOSSES]
    if not isinstance(losses, list):
        raise TypeError(f"expected a list, found {losses!r}")
    for each in losses:
        use = MethodUse.model_validate({"name": each} if isinstance(each, str) else each)
        drawn = {setting: choices[f"{LOGIT_LOSSES}.{use.name}.{setting}"] for setting in use.searched}
        yield LogitLoss(name=use.name, config={**use.fixed, **drawn})
