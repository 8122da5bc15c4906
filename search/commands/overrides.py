"""`--set budget.trials=4`: any field of the job spec from the command line. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from search.problems import SearchProblem


def override(document: dict[str, Any], assignments: Sequence[str]) -> None:
    """Write each `path=value` into a spec document, in order.

    A path is dotted, with numbers for places in lists; a value is JSON, and what is no JSON is a text.
    Whether field and value are right is left to the spec's own checks. Raises SearchProblem for what is no
    assignment or leads nowhere.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not all(path.split(".")):
            raise _problem(assignment, "write --set field=value, such as --set training.learning_rate=0.01")
        _write(document, path.strip().split("."), _value(text.strip()), assignment)


def _write(document: dict[str, Any], path: list[str], value: Any, assignment: str) -> None:
    place: Any = document
    for depth, name in enumerate(path):
        key = _key(place, name, ".".join(path[:depth]), assignment)
        if depth == len(path) - 1:
            place[key] = value
        else:
            if isinstance(place, dict) and place.get(key) is None:
                place[key] = {}
            place = place[key]


def _key(place: Any, name: str, parent: str, assignment: str) -> str | int:
    """A field's name, or a place in a list that is there."""
    if isinstance(place, dict):
        return name
    if not isinstance(place, list):
        raise _problem(assignment, f"{parent} has no parts: set it as a whole")
    if not name.isdecimal() or int(name) >= len(place):
        last = f" from 0 to {len(place) - 1}" if place else ""
        raise _problem(
            assignment, f"{parent} is a list: name one of its places by a number{last}, or set it whole"
        )
    return int(name)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _problem(assignment: str, remedy: str) -> SearchProblem:
    return SearchProblem(f"--set {assignment}: {remedy}", code="spec_invalid")
