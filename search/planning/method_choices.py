"""Methods with settings as choices: the settings' dimensions, and what a trial's choices mean. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from search.dimensions import Choices, Dimension, Interval, Options
from search.recipe import FeatureLoss, LogitLoss, TemperatureRule
from search.spec import MethodUse, Range, Space, searched_settings

TRANSFORMS, DISTANCES = "transforms", "distances"
LOGIT_LOSSES, FEATURE_LOSSES = "logit_losses", "feature_losses"
TEMPERATURE_RULES = "temperature_rules"


def setting_dimensions(space: Space) -> list[Dimension]:
    """One dimension for each setting that is searched; those of a method that was not chosen mean nothing."""
    kinds = (
        (TRANSFORMS, space.transforms),
        (DISTANCES, space.distances),
        (LOGIT_LOSSES, space.logit_losses),
        (FEATURE_LOSSES, space.feature_losses),
        (TEMPERATURE_RULES, [space.temperature_rules or []]),
    )
    found = {
        f"{kind}.{name}.{setting}": how
        for kind, sets in kinds
        for name, setting, how in searched_settings(use for uses in sets for use in uses)
    }
    return [
        Interval(name, how.low, how.high, how.log) if isinstance(how, Range) else Options(name, tuple(how))
        for name, how in found.items()
    ]


def as_uses(uses: Sequence[str | MethodUse]) -> list[JsonValue]:
    """A set of methods as a value of a choice; or rules, as the values of one."""
    return [use if isinstance(use, str) else use.model_dump(mode="json") for use in uses]


def uses_of(choices: Choices, field: str) -> list[str | MethodUse]:
    """The methods that these choices name there, as the spec does; none where they do not speak of it."""
    named = choices.get(field, [])
    if not isinstance(named, list):
        raise TypeError(f"expected a list, found {named!r}")
    return [each if isinstance(each, str) else MethodUse.model_validate(each) for each in named]


def logit_losses_of(choices: Choices) -> list[LogitLoss]:
    """The logit losses that these choices mean, each once, with the settings that were drawn, and all with
    the temperature rule that was chosen."""
    found: list[LogitLoss] = []
    rule = _rule_of(choices)
    for name, config in chosen_methods(choices, LOGIT_LOSSES):
        loss = LogitLoss(name=name, config=config, temperature_rule=rule)
        if loss not in found:
            found.append(loss)
    return found


def feature_losses_of(choices: Choices) -> list[FeatureLoss]:
    """The feature losses, likewise; none where the choices do not speak of them."""
    found: dict[str, FeatureLoss] = {}
    if FEATURE_LOSSES in choices:
        for name, config in chosen_methods(choices, FEATURE_LOSSES):
            loss = FeatureLoss(loss=name, config=config)
            found.setdefault(loss.name, loss)
    return list(found.values())


def _rule_of(choices: Choices) -> TemperatureRule | None:
    """None where the choices do not speak of rules."""
    if TEMPERATURE_RULES not in choices:
        return None
    name, config = _drawn(choices, TEMPERATURE_RULES, choices[TEMPERATURE_RULES])
    return TemperatureRule(name=name, config=config)


def chosen_methods(choices: Choices, kind: str) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    """(name, settings) of the methods that these choices mean, with the settings that were drawn."""
    uses = choices[kind]
    if not isinstance(uses, list):
        raise TypeError(f"expected a list, found {uses!r}")
    yield from (_drawn(choices, kind, each) for each in uses)


def _drawn(choices: Choices, kind: str, chosen: JsonValue) -> tuple[str, dict[str, JsonValue]]:
    """The method's name, and its settings."""
    use = MethodUse.model_validate({"name": chosen} if isinstance(chosen, str) else chosen)
    drawn = {setting: choices[f"{kind}.{use.name}.{setting}"] for setting in use.searched}
    return use.name, {**use.fixed, **drawn}
