"""Parameters of lists: how many, from where on, and nothing that is silently ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, TypeVar

from fastapi import Query, Request
from fastapi.dependencies.models import Dependant

from service.problems import Code, Fault, Problem

Item = TypeVar("Item")
Limit = Annotated[int, Query(ge=1, le=100, description="Items per page.")]
After = Annotated[
    str | None,
    Query(max_length=250, pattern=r"^[A-Za-z0-9_.:/@+-]+$", description="`next_cursor` of the page before."),
]
DEFAULT_LIMIT = 20
LABEL_PREFIX = "label."
LABEL_PARAMETER = {
    "name": "label.NAME",
    "in": "query",
    "required": False,
    "description": "Only jobs with the label NAME of this value; may be given for several names.",
    "schema": {"type": "string"},
}


def label_filter(request: Request) -> dict[str, str]:
    """A dependency: the labels asked for as `label.NAME=VALUE`."""
    given = request.query_params.items()
    labels = {
        name.removeprefix(LABEL_PREFIX): value for name, value in given if name.startswith(LABEL_PREFIX)
    }
    for name, value in labels.items():
        if "\0" in name + value:
            fault = Fault(field="query.label", message="contains the character NUL", remedy="Leave it out.")
            raise Problem(Code.INVALID_REQUEST, "A label cannot contain the character NUL.", errors=[fault])
    return labels


def refuse_unknown_parameters(request: Request) -> None:
    """A dependency of all routes: Problem 422 for a query parameter that the route does not have.

    A filter that is spelt wrongly would otherwise find everything.
    """
    parts = list(_with_all_below(getattr(request.scope.get("route"), "dependant", None)))
    known = {field.alias for dependant in parts for field in dependant.query_params}
    takes_labels = any(dependant.call is label_filter for dependant in parts)
    faults = [
        Fault(field=f"query.{name[:100]}", message="is not known here", remedy=_remedy(name, known))
        for name in request.query_params
        if name not in known and not (takes_labels and name.startswith(LABEL_PREFIX))
    ]
    if faults:
        detail = "; ".join(f"{fault.field} {fault.message}" for fault in faults)
        raise Problem(Code.INVALID_REQUEST, detail, errors=faults)


def part_of(
    items: Sequence[Item], *, key: Callable[[Item], str], after: str | None, limit: int
) -> tuple[list[Item], bool]:
    """A page of a list that is sorted by its key and was read whole, and whether more follows."""
    following = [item for item in items if after is None or key(item) > after]
    return following[:limit], len(following) > limit


def _with_all_below(dependant: Dependant | None) -> Iterator[Dependant]:
    if dependant is not None:
        yield dependant
        for below in dependant.dependencies:
            yield from _with_all_below(below)


def _remedy(name: str, known: set[str]) -> str:
    if close := get_close_matches(name, known, n=1):
        return f"Did you mean `{close[0]}`?"
    return f"Known: {', '.join(f'`{one}`' for one in sorted(known))}." if known else "There are none here."
