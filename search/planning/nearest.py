"""Choices that distil and whose methods can be used together; the nearest ones where some do not.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, product

from search.allowed_choices import LOSSES, SETS, Cards, cards_of, sets_of, why_no_choice
from search.combinations import Refusal, facts_of, why_not_together
from search.dimensions import Choices
from search.planning.arms import as_choice, pathways_of
from search.planning.method_choices import LOGIT_LOSSES, as_uses, uses_of
from search.recipe import AnyPathway, Pathway
from search.records import PreflightResult
from search.spec import JobSpec


def nearest_that_work(spec: JobSpec, choices: Choices, preflight: PreflightResult) -> Choices | None:
    """These choices, or the nearest that distil something with methods that can be used together.

    Other logit losses are tried first, then other feature losses, then both, and at last other connections,
    transforms and distances, each in the order of the space. None where no choice of the space will do.
    """
    others = _by_nearness(spec, choices, preflight)
    return next((other for other in others if _works(spec, other, preflight)), None)


def why_none_works(spec: JobSpec, preflight: PreflightResult) -> str:
    """Why `nearest_that_work` finds nothing."""
    fault = why_no_choice(spec.search.space, preflight.cards, facts_of(spec))
    if fault is not None:
        return f"{fault.field}: {fault.message}; {fault.remedy}"
    return "in no choice of search.space are there losses that can be used together: add one with fewer"


def refusal_of(
    spec: JobSpec, choices: Choices, pathways: Sequence[AnyPathway], cards: Cards
) -> Refusal | None:
    """Why the methods of these choices, which mean these pathways, cannot be used together; None where they
    can. Transforms and distances count where something is joined."""
    is_joined = any(isinstance(pathway, Pathway) for pathway in pathways)
    fields = [(field, kind) for field, kind in SETS if is_joined or field in LOSSES]
    used = (cards_of(uses_of(choices, field), kind, cards) for field, kind in fields)
    return why_not_together([*chain.from_iterable(used)], facts_of(spec))


def _works(spec: JobSpec, choices: Choices, preflight: PreflightResult) -> bool:
    pathways = pathways_of(choices, preflight)
    if not (choices[LOGIT_LOSSES] or pathways):
        return False
    return refusal_of(spec, choices, pathways, preflight.cards) is None


def _by_nearness(spec: JobSpec, choices: Choices, preflight: PreflightResult) -> Iterator[Choices]:
    space, losses = spec.search.space, _other_losses(spec, preflight)
    yield choices
    yield from ({**choices, **changes} for changes in losses)
    for connections, transforms, distances in product(space.connections, space.transforms, space.distances):
        joined: Choices = {
            **choices,
            "connections": as_choice(connections),
            "transforms": as_uses(transforms),
            "distances": as_uses(distances),
        }
        yield joined
        yield from ({**joined, **changes} for changes in losses)


def _other_losses(spec: JobSpec, preflight: PreflightResult) -> list[Choices]:
    """Each set of logit losses that can be used, each of feature losses, and each of both."""
    by_field: list[list[Choices]] = []
    for field, kind in SETS:
        sets = sets_of(spec.search.space, field)
        if field not in LOSSES or not any(sets):
            continue
        cards = {index: cards_of(uses, kind, preflight.cards) for index, uses in enumerate(sets)}
        usable = (index for index in cards if why_not_together(cards[index], facts_of(spec)) is None)
        by_field.append([{field: as_uses(sets[index])} for index in usable])
    both = [{**one, **other} for one, other in product(*by_field)] if len(by_field) > 1 else []
    return [*chain.from_iterable(by_field), *both]
