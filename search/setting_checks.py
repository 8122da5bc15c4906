"""Has a method the settings that a spec gives it, and can they be searched so? By the catalogue. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from search.allowed_choices import SETS, sets_of
from search.chains import parts_of
from search.registry import Kind
from search.spec import JobSpec, MethodUse, Range, name_of
from search.spec_faults import SpecFault, did_you_mean

Schemas = Mapping[str, Mapping[str, Any]]
"""The JSON schemas of settings, by their names as a spec says them."""
LISTED_VALUES = 8


def uses_in(spec: JobSpec) -> Iterator[tuple[str, Kind, str | MethodUse]]:
    """(field, kind, use) of everything in the search's space that may have settings."""
    space = spec.search.space
    for name, kind in SETS:
        for index, uses in enumerate(sets_of(space, name)):
            for place, use in enumerate(uses):
                yield f"search.space.{name}.{index}.{place}", kind, use
    for index, use in enumerate(space.temperature_rules or []):
        yield f"search.space.temperature_rules.{index}", Kind.TEMPERATURE_RULE, use


def parts_of_use(kind: Kind, use: str | MethodUse) -> list[tuple[Kind, str]]:
    """Of a chain its transform and its operators; else the method itself."""
    return parts_of(name_of(use)) if kind is Kind.TRANSFORM else [(kind, name_of(use))]


def setting_faults(spec: JobSpec, catalogue: Mapping[str, Any]) -> Iterator[SpecFault]:
    """Settings that a method does not have, and ranges of those that take whole numbers; a catalogue that
    tells no settings of a method is not asked."""
    told = _told(catalogue)
    for field, kind, use in uses_in(spec):
        if isinstance(use, MethodUse):
            schemas = _schemas(told, parts_of_use(kind, use))
            if schemas is not None:
                of = f"{kind.replace('_', ' ')} {use.name!r}"
                yield from _unknown(use, of, [*schemas], f"{field}.config")
                yield from _not_whole(use, of, schemas, f"{field}.config")


def _unknown(use: MethodUse, of: str, known: Sequence[str], where: str) -> Iterator[SpecFault]:
    for setting in sorted(use.config.keys() - set(known)):
        guess = did_you_mean(setting, known)
        listed = f"its settings: {', '.join(known)}" if known else "it has no settings"
        yield SpecFault(
            f"{where}.{setting}",
            f"{of} has no setting {setting!r}",
            f"{guess} {listed}" if guess else listed,
        )


def _not_whole(use: MethodUse, of: str, schemas: Schemas, where: str) -> Iterator[SpecFault]:
    """What is drawn from a range is no whole number, even where both its ends are."""
    for setting, how in use.searched.items():
        if isinstance(how, Range) and _is_whole(schemas.get(setting, {})):
            yield SpecFault(
                f"{where}.{setting}",
                f"{setting} of {of} takes whole numbers, and a range is drawn from between them too",
                f"list the values to choose from, such as {_values_in(how)}",
            )


def _is_whole(schema: Mapping[str, Any]) -> bool:
    kinds = {one.get("type") for one in (schema, *schema.get("anyOf", ()))}
    return "integer" in kinds and "number" not in kinds


def _values_in(how: Range) -> list[int]:
    """A few whole numbers in the range, each about twice the one before."""
    low, high = math.ceil(how.low), math.floor(how.high)
    doubled = (low * 2**power for power in range(LISTED_VALUES))
    return sorted({value for value in doubled if value < high} | {high})


def _schemas(told: Mapping[tuple[str, str], Schemas], parts: Sequence[tuple[Kind, str]]) -> Schemas | None:
    """Of a method, or of all parts of a chain, as a spec says them: those of operators with the operators'
    names; None where one is not told of."""
    if any(part not in told for part in parts):
        return None
    return dict(chain.from_iterable(_as_said(kind, name, told[kind, name]) for kind, name in parts))


def _as_said(kind: Kind, name: str, schemas: Schemas) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for setting, schema in sorted(schemas.items()):
        yield f"{name}.{setting}" if kind is Kind.OPERATOR else setting, schema


def _told(catalogue: Mapping[str, Any]) -> dict[tuple[str, str], Schemas]:
    """By kind and name of the methods whose settings are told."""
    return {
        (each["kind"], _bare_name(each)): each["config"].get("properties", {})
        for each in catalogue.get("methods", ())
        if "config" in each
    }


def _bare_name(method: Mapping[str, Any]) -> str:
    return str(method.get("name") or method["id"]).removeprefix(f"{method['kind']}/")
