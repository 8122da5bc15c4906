"""Which teacher stage may teach which student stage, and which pathways make sense. Imports no torch.

The plan enumerates a trial's pathways here, from the stages that preflight measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from search.recipe import Pathway, Stage
from search.registry import Kind

Connection = tuple[Stage, Stage]
"""A teacher stage and the student stage that it teaches."""

_DEPTH_TOLERANCE = 1e-6


class UnknownConnectionsError(LookupError):
    """There is no rule of that name."""


@dataclass(frozen=True)
class MapFacts:
    """What cards say of transforms (`keeps_channels`) and distances, by name.

    What is not named is the usual: a transform that gives the teacher's channels, a distance that needs equal
    channels and compares maps of any size.
    """

    keeps_channels: frozenset[str] = frozenset()
    ignores_channels: frozenset[str] = frozenset()
    compares_places: frozenset[str] = frozenset()

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
        side = round(input_size / teacher_stage.reduction)
        if side <= 1:
            return (
                f"distance {pathway.distance!r} compares places, but the teacher's map at stage "
                f"{teacher_stage.index} has one pixel; use another distance or another connection"
            )
    if pathway.transform not in facts.keeps_channels or pathway.distance in facts.ignores_channels:
        return None
    if teacher_stage.channels == student_stage.channels:
        return None
    return (
        f"transform {pathway.transform!r} keeps the student's {student_stage.channels} channels, but "
        f"distance {pathway.distance!r} compares them with the teacher's {teacher_stage.channels}; use a "
        "transform that projects, or a distance that ignores channels, such as 'attention'"
    )


def enumerate_pathways(
    connections: str | Sequence[Sequence[int]],
    transforms: Sequence[str],
    distances: Sequence[str],
    teacher_stages: Sequence[Stage],
    student_stages: Sequence[Stage],
    facts: MapFacts,
    *,
    teacher: int = 0,
    input_size: int | None = None,
) -> list[Pathway]:
    """All pathways of a choice that fit: connections x transforms x distances, each once, in this order.

    `connections` is a rule's name, or pairs (teacher stage, student stage); pairs of stages that a model does
    not have are left out (preflight refuses them, by `absent_stages`).

    Raises UnknownConnectionsError. The list is empty where no pair of stages fits, for example when
    `identity` meets stages of different widths, and where nothing is connected.
    """
    methods = list(product(dict.fromkeys(transforms), dict.fromkeys(distances)))
    pathways = []
    for teacher_stage, student_stage in connected(connections, teacher_stages, student_stages):
        for transform, distance in methods:
            pathway = Pathway(
                teacher=teacher,
                teacher_stage=teacher_stage.index,
                student_stage=student_stage.index,
                transform=transform,
                distance=distance,
            )
            if fits(pathway, teacher_stage, student_stage, facts, input_size=input_size) is None:
                pathways.append(pathway)
    return pathways


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
