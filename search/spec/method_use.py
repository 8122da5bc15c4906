"""A method as a spec names it: by its name alone, or with settings, each fixed or to be searched."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Discriminator, Field, JsonValue, Tag, ValidationError, field_validator

from search.spec.fields import Name, Range, SpecModel

SettingName = Annotated[str, Field(min_length=1, max_length=200)]
MOST_SETTINGS, MOST_OPTIONS, MOST_TEXT = 64, 64, 200
RANGE_FIELDS = {"low", "high"}

Searched = Range | list[JsonValue]
"""How a setting is searched: in a range, or among these values."""


class MethodUse(SpecModel):
    """A method with settings."""

    name: Name
    config: Annotated[dict[SettingName, JsonValue], Field(max_length=MOST_SETTINGS)] = Field(
        default_factory=dict,
        description="Settings by name; GET /v1/methods lists them. An object with `low` and `high` is a "
        "range to be searched, a list holds values to choose from; anything else is the setting's value. "
        "Whole numbers are searched by a list.",
    )

    @field_validator("config")
    @classmethod
    def _readable(cls, config: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name, value in config.items():
            _require_readable(name, value)
        return config

    @property
    def searched(self) -> dict[str, Searched]:
        """The settings that are to be searched."""
        return {name: found for name, value in self.config.items() if (found := _searched(value))}

    @property
    def fixed(self) -> dict[str, JsonValue]:
        """The settings that have one value."""
        return {name: value for name, value in self.config.items() if not _searched(value)}

    def configs(self) -> Iterator[dict[str, JsonValue]]:
        """Settings that between them have every end of every range and every value to choose from."""
        values = {name: _values(how) for name, how in self.searched.items()}
        base = {**self.fixed, **{name: tried[0] for name, tried in values.items()}}
        yield base
        for name, tried in values.items():
            yield from ({**base, name: value} for value in tried[1:])


def _values(how: Searched) -> list[JsonValue]:
    return [how.low, how.high] if isinstance(how, Range) else how


def _tag(value: object) -> str:
    return "<settings>" if isinstance(value, dict | MethodUse) else "<name>"


NameOrUse = Annotated[
    Annotated[Name, Tag("<name>")] | Annotated[MethodUse, Tag("<settings>")], Discriminator(_tag)
]
LossSet = Annotated[list[NameOrUse], Field(max_length=16)]
MethodSet = Annotated[list[NameOrUse], Field(min_length=1, max_length=16)]


def name_of(use: str | MethodUse) -> str:
    """The method's name."""
    return use if isinstance(use, str) else use.name


def searched_settings(uses: Iterable[str | MethodUse]) -> Iterator[tuple[str, str, Searched]]:
    """(method, setting, how) of all settings that are searched."""
    for use in uses:
        if isinstance(use, MethodUse):
            yield from ((use.name, setting, how) for setting, how in use.searched.items())


def require_one_range(sets: Sequence[Sequence[str | MethodUse]]) -> None:
    """Raise ValueError where one setting of one method is to be searched in two ways."""
    known: dict[tuple[str, str], Searched] = {}
    for name, setting, how in searched_settings(use for uses in sets for use in uses):
        if known.setdefault((name, setting), how) != how:
            raise ValueError(
                f"{setting} of {name} is searched in two ways; give it one range wherever it is searched"
            )


def _searched(value: JsonValue) -> Searched | None:
    if isinstance(value, list):
        return value
    if isinstance(value, Mapping) and value.keys() >= RANGE_FIELDS:
        return Range.model_validate(value)
    return None


def _require_readable(name: str, value: JsonValue) -> None:
    """Raise ValueError for numbers that are not finite, endless texts and lists, and broken ranges."""
    if any(isinstance(part, float) and not math.isfinite(part) for part in _leaves(value)):
        raise ValueError(f"{name} must be finite; give a finite number")
    if any(isinstance(part, str) and len(part) > MOST_TEXT for part in _leaves(value)):
        raise ValueError(f"{name} holds a text of over {MOST_TEXT} characters; give a shorter one")
    if isinstance(value, list) and not 0 < len(value) <= MOST_OPTIONS:
        raise ValueError(f"{name} must have 1 to {MOST_OPTIONS} values to choose from; give so many")
    try:
        _searched(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([name, *map(str, first["loc"])])
        raise ValueError(f"{where} is no range: {first['msg']}; give low, high and perhaps log") from error


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value
