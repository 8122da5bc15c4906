"""From what a user types to a job spec: the short forms of `jobs.create` and of `limbeck submit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from limbeck import yaml_core
from limbeck.api import Document
from limbeck.errors import LimbeckError
from search.spec import JobSpec

Spec: TypeAlias = JobSpec | Mapping[str, Any] | str | Path
Named: TypeAlias = str | Mapping[str, Any]


class UnreadableSpec(LimbeckError):  # noqa: N818
    """A spec file or a setting cannot be read; the message says where."""


def spec_document(
    spec: Spec | None = None,
    *,
    teacher: Named | Sequence[Named] | None = None,
    student: Named | None = None,
    data: Named | None = None,
    budget: Mapping[str, Any] | None = None,
    parts: Mapping[str, Any] | None = None,
) -> Document:
    """The spec as JSON: the given one, with what is named beside it put over it.

    A string stands for a model or data set by name; mappings are merged into what the spec says already.
    Nothing is checked here: the server's answer names every fault with its remedy.
    """
    document = read_spec(spec) if spec is not None else {}
    if teacher is not None:
        several = [teacher] if isinstance(teacher, str | Mapping) else list(teacher)
        document["teachers"] = [_named(one, "model") for one in several]
    over: dict[str, Any] = dict(parts or {})
    if student is not None:
        over["student"] = _named(student, "model")
    if data is not None:
        over["data"] = _named(data, "name")
    if budget is not None:
        over["budget"] = dict(budget)
    return merged(document, over)


def read_spec(spec: Spec) -> Document:
    """A spec as JSON. A string or path names a YAML or JSON file. Raises UnreadableSpec."""
    if isinstance(spec, JobSpec):
        return spec.model_dump(mode="json", exclude_unset=True)
    if isinstance(spec, Mapping):
        return deepcopy(dict(spec))
    try:
        text = Path(spec).read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableSpec(f"cannot read {spec}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UnreadableSpec(f"{spec} is not a text file") from error
    return parse_spec(text, name=str(spec))


def parse_spec(text: str, *, name: str) -> Document:
    """A spec from YAML or JSON text. Raises UnreadableSpec with line and column."""
    try:
        document = yaml_core.load(text)
    except yaml.YAMLError as error:
        raise UnreadableSpec(f"{name} is neither YAML nor JSON: {error}") from error
    if not isinstance(document, dict):
        raise UnreadableSpec(f"{name} holds no job spec: expected fields such as `teachers` and `student`")
    return document


def apply_setting(document: Document, setting: str) -> None:
    """Put `a.b=value` into the document; the value is read as YAML, a number in the path as a list index.

    Raises UnreadableSpec for a setting without `=` or a path that leads through a plain value.
    """
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise UnreadableSpec(f"{setting!r} is no setting: write FIELD=VALUE, for example budget.trials=4")
    *parents, last = path.split(".")
    place: Any = document
    for name in parents:
        place = _child(place, name, setting)
    try:
        value = yaml_core.load(text)
    except yaml.YAMLError as error:
        raise UnreadableSpec(f"{setting!r}: the value is no YAML: {error}") from error
    _put(place, last, value, setting)


def merged(base: Document, over: Mapping[str, Any]) -> Document:
    """`over` put over `base`, mapping into mapping; everything else is replaced."""
    result = dict(base)
    for name, value in over.items():
        held = result.get(name)
        both = isinstance(held, Mapping) and isinstance(value, Mapping)
        result[name] = merged(dict(held), value) if both and held is not None else value
    return result


def _named(value: Named, field: str) -> Document:
    return {field: value} if isinstance(value, str) else dict(value)


def _child(place: Any, name: str, setting: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, name, setting)]
    if not isinstance(place, dict):
        raise UnreadableSpec(f"{setting!r}: {name!r} lies in something that has no fields")
    if place.get(name) is None:
        place[name] = {}
    return place[name]


def _put(place: Any, name: str, value: Any, setting: str) -> None:
    if isinstance(place, list):
        place[_index(place, name, setting)] = value
    elif isinstance(place, dict):
        place[name] = value
    else:
        raise UnreadableSpec(f"{setting!r}: {name!r} lies in something that has no fields")


def _index(place: list[Any], name: str, setting: str) -> int:
    if name.isdigit() and int(name) < len(place):
        return int(name)
    raise UnreadableSpec(f"{setting!r}: {name!r} is no position in a list of {len(place)}")
