"""Which teacher stage may teach which student stage, and which pathways make sense. Imports no torch.

The plan enumerates a trial's pathways here, from the stages that preflight measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from pydantic import JsonValue

from search.chains import operators_of, transform_of
from search.method_card import Reshaping
from search.recipe import Pathway, Stage
from search.registry import Kind

Connection = tuple[Stage, Stage]
"""A teacher stage and the student stage that it teaches."""
Chosen = str | tuple[str, Mapping[str, JsonValue]]
"""A method's name, or its name and settings."""

_DEPTH_TOLERANCE = 1e-6


class UnknownConnectionsError(LookupError):
    """There is no rule of that name."""


@dataclass(frozen=True)
class MapFacts:
    """What cards say of transforms (`keeps_channels`), distances and operators (`reshaping`), by name.

    What is not named is the usual: a transform that gives the teacher's channels, a distance that needs equal
    channels and compares maps of any size.
    """

    keeps_channels: frozenset[str] = frozenset()
    ignores_channels: frozenset[str] = frozenset()
    compares_places: frozenset[str] = frozenset()
    reshaping: Mapping[str, Reshaping] = field(default_factory=dict)  # of operators

    def of_operator(self, name: str) -> Reshaping:
        """What it does to a map's shape; nothing, where it is not named."""
        return self.reshaping.get(name, Reshaping())

    @classmethod
    def of(cls, cards: Mapping[str, Mapping[str, Any]]) -> MapFacts:
        """As these cards say, which are keyed "kind/name".

        Without any: as was built in when preflight did not record cards yet.
        """
        if not cards:
            return cls(frozenset({"identity"}), frozenset({"attention", "gram"}), frozenset({"attention"}))

        def those(kind: Kind, fact: str) -> frozenset[str]:
            told = {key.partition("/")[::2]: card for key, card in cards.items()}
            return frozenset(name for (of, name), card in told.items() if of == kind and card.get(fact))

        return cls(
            keeps_channels=those(Kind.TRANSFORM, "keeps_channels"),
            ignores_channels=those(Kind.DISTANCE, "ignores_channels"),
            compares_places=those(Kind.DISTANCE, "compares_places"),
            reshaping={
                key.partition("/")[2]: Reshaping(**card["reshaping"])
                for key, card in cards.items()
                if key.partition("/")[0] == Kind.OPERATOR and card.get("reshaping")
            },
        )


def fits(
    pathway: Pathway,
    teacher_stage: Stage,
    student_stage: Stage,
    facts: MapFacts,
    *,
    input_size: int | None = None,
) -> str | None:
    """Why a pathway makes no sense between two stages; None when it does.

    `input_size` is the side of the data's images, from which the size of the teacher's map follows.
    """
    if pathway.distance in facts.compares_places and input_size is not None:
        blind = _why_blind(pathway, teacher_stage, facts, input_size)
        if blind is not None:
            return blind
    is_kept = transform_of(pathway.transform) in facts.keeps_channels
    if not is_kept or teacher_stage.channels == student_stage.channels:
        return None
    counts = (
        f"transform {pathway.transform!r} keeps the student's {student_stage.channels} channels, but "
        "{} compares them with the teacher's "
        f"{teacher_stage.channels}; use a transform that projects"
    )
    for operator in operators_of(pathway.transform):
        if facts.of_operator(operator).makes_places_of_channels:
            return counts.format(f"operator {operator!r}")
    if pathway.distance in facts.ignores_channels:
        return None
    return (
        counts.format(f"distance {pathway.distance!r}")
        + ", or a distance that ignores channels, such as 'attention'"
    )


def _why_blind(pathway: Pathway, teacher_stage: Stage, facts: MapFacts, input_size: int) -> str | None:
    """Why a distance that compares places sees none, after the pathway's operators; None where it does."""
    side = round(input_size / teacher_stage.reduction)
    has_one = "has one pixel"
    for operator in operators_of(pathway.transform):
        before, side = side, _side_after(facts.of_operator(operator), side, teacher_stage)
        if side <= 1 < before:
            has_one = f"has one pixel after operator {operator!r}"
    if side > 1:
        return None
    return (
        f"distance {pathway.distance!r} compares places, but the teacher's map at stage "
        f"{teacher_stage.index} {has_one}; use another distance or another connection"
    )


def _side_after(reshaping: Reshaping, side: int, teacher_stage: Stage) -> int:
    if reshaping.makes_places_of_channels:
        return teacher_stage.channels
    if reshaping.side is not None:
        return min(side, reshaping.side) if side <= 1 else reshaping.side
    return -(-side // reshaping.shrinks)


def enumerate_pathways(
    connections: str | Sequence[Sequence[int]],
    transforms: Sequence[Chosen],
    distances: Sequence[Chosen],
    teacher_stages: Sequence[Stage],
    student_stages: Sequence[Stage],
    facts: MapFacts,
    *,
    teacher: int = 0,
    input_size: int | None = None,
) -> list[Pathway]:
    """All pathways of a choice that fit: connections x transforms x distances, each once, in this order.

    Transforms may be chains (search/chains.py), and both may have settings.

    `connections` is a rule's name, or pairs (teacher stage, student stage); pairs of stages that a model does
    not have are left out (preflight refuses them, by `absent_stages`).

    Raises UnknownConnectionsError. The list is empty where no pair of stages fits, for example when
    `identity` meets stages of different widths, and where nothing is connected.
    """
    pathways: dict[str, Pathway] = {}
    for teacher_stage, student_stage in connected(connections, teacher_stages, student_stages):
        for transform, distance in product(map(_configured, transforms), map(_configured, distances)):
            pathway = Pathway(
                teacher=teacher,
                teacher_stage=teacher_stage.index,
                student_stage=student_stage.index,
                transform=transform[0],
                transform_config=transform[1],
                distance=distance[0],
                distance_config=distance[1],
            )
            if fits(pathway, teacher_stage, student_stage, facts, input_size=input_size) is None:
                pathways.setdefault(pathway.name, pathway)
    return list(pathways.values())


def _configured(chosen: Chosen) -> tuple[str, dict[str, JsonValue]]:
    return (chosen, {}) if isinstance(chosen, str) else (chosen[0], dict(chosen[1]))


def absent_stages(
    connections: str | Sequence[Sequence[int]],
    teacher_stages: Sequence[Stage],
    student_stages: Sequence[Stage],
) -> str | None:
    """What listed pairs name that the models do not have; None for a rule, and where all is there."""
    pairs = [] if isinstance(connections, str) else [(teacher, student) for teacher, student in connections]
    lists = (
        ("teacher", teacher_stages, [teacher for teacher, _ in pairs]),
        ("student", student_stages, [student for _, student in pairs]),
    )
    found = [
        f"stage {index} of the {role}, which has "
        + (f"stages 0 to {len(stages) - 1}" if len(stages) else "no stages")
        for role, stages, named in lists
        for index in sorted(set(named))
        if index >= len(stages)
    ]
    return "; ".join(found) or None


def connected(
    connections: str | Sequence[Sequence[int]],
    teacher_stages: Sequence[Stage],
    student_stages: Sequence[Stage],
) -> list[Connection]:
    """What a rule, or listed pairs, connect of these stages. Raises UnknownConnectionsError."""
    if not isinstance(connections, str):
        pairs = dict.fromkeys((teacher, student) for teacher, student in connections)
        return [
            (teacher_stages[teacher], student_stages[student])
            for teacher, student in pairs
            if teacher < len(teacher_stages) and student < len(student_stages)
        ]
    try:
        rule = _RULES[connections]
    except KeyError:
        raise UnknownConnectionsError(
            f"unknown connections {connections!r}; known: {', '.join(sorted(_RULES))}"
        ) from None
    return rule(teacher_stages, student_stages)


def _none(teacher_stages: Sequence[Stage], student_stages: Sequence[Stage]) -> list[Connection]:
    """Nothing: the logits alone teach."""
    return []


def _same_depth(teacher_stages: Sequence[Stage], student_stages: Sequence[Stage]) -> list[Connection]:
    """Each student stage with the teacher stage of nearest relative depth; one to one where counts agree.

    Of two equally near teacher stages the shallower one is taken: a deeper one is harder to match.
    """
    if len(teacher_stages) == len(student_stages):
        return list(zip(teacher_stages, student_stages, strict=True))
    return [
        (min(teacher_stages, key=lambda stage: (abs(stage.depth - student.depth), stage.depth)), student)
        for student in student_stages
    ]


def _last(teacher_stages: Sequence[Stage], student_stages: Sequence[Stage]) -> list[Connection]:
    """The last stages only."""
    return [(teacher_stages[-1], student_stages[-1])] if teacher_stages and student_stages else []


def _same_or_deeper(teacher_stages: Sequence[Stage], student_stages: Sequence[Stage]) -> list[Connection]:
    """DistPro's rule: a teacher stage teaches student stages of the same relative depth and deeper ones."""
    return [
        (teacher, student)
        for teacher, student in _all(teacher_stages, student_stages)
        if student.depth >= teacher.depth - _DEPTH_TOLERANCE
    ]


def _all(teacher_stages: Sequence[Stage], student_stages: Sequence[Stage]) -> list[Connection]:
    """Every teacher stage with every student stage."""
    return [(teacher, student) for student in student_stages for teacher in teacher_stages]


_RULES: dict[str, Callable[[Sequence[Stage], Sequence[Stage]], list[Connection]]] = {
    "none": _none,
    "same_depth": _same_depth,
    "last": _last,
    "same_or_deeper": _same_or_deeper,
    "all": _all,
}
CONNECTIONS = tuple(_RULES)
