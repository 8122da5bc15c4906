"""Which teacher stage may teach which student stage, and which pathways make sense. Imports no torch.

The plan enumerates a trial's pathways here, from the stages that preflight measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from pydantic import JsonValue

from search.chains import operators_of, transform_of
from search.recipe import Pathway, Stage

Connection = tuple[Stage, Stage]
"""A teacher stage and the student stage that it teaches."""
Chosen = str | tuple[str, Mapping[str, JsonValue]]
"""A method's name, or its name and settings."""

_DEPTH_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Reshaping:
    """What an operator does to a map's shape, as far as it decides which pathways make sense."""

    shrinks: int = 1  # sides become so many times smaller
    side: int | None = None  # sides become that
    makes_places_of_channels: bool = False


_keeps_channels: set[str] = set()
_ignores_channels: set[str] = set()
_compares_places: set[str] = set()
_reshapes: dict[str, Reshaping] = {}


class UnknownConnectionsError(LookupError):
    """There is no rule of that name."""


def declare_transform(name: str, *, keeps_channels: bool) -> None:
    """Say of a transform that it leaves the channels as they are: both stages need equally many.

    What is not declared gives the teacher's channels. The plan has to know, where no torch is at hand.
    """
    if keeps_channels:
        _keeps_channels.add(name)


def declare_distance(name: str, *, ignores_channels: bool = False, compares_places: bool = False) -> None:
    """Say of a distance that it compares maps of any number of channels, that it is blind on one pixel.

    What is not declared needs equal channels and maps of any size. The plan has to know, where no torch is at
    hand.
    """
    if ignores_channels:
        _ignores_channels.add(name)
    if compares_places:
        _compares_places.add(name)


def declare_operator(
    name: str, *, shrinks: int = 1, side: int | None = None, makes_places_of_channels: bool = False
) -> None:
    """Say of an operator what it does to a map's shape: sides become so many times smaller, or become `side`,
    or channels become places (then both maps need equally many).

    What is not declared leaves as many places as there were. The plan has to know, where no torch is at hand.
    """
    _reshapes[name] = Reshaping(shrinks, side, makes_places_of_channels)


declare_transform("identity", keeps_channels=True)
declare_operator("max_pool2", shrinks=2)
declare_operator("max_pool4", shrinks=4)
declare_operator("local2", side=2)
declare_operator("local4", side=4)
declare_operator("image_vectors", side=1)
declare_operator("channel_vectors", makes_places_of_channels=True)
declare_distance("attention", ignores_channels=True, compares_places=True)
declare_distance("gram", ignores_channels=True)


def keeps_channels(transform: str) -> bool:
    """Whether the output of a transform, or of a chain's, has the student's channels instead of the
    teacher's.
    """
    return transform_of(transform) in _keeps_channels


def ignores_channels(distance: str) -> bool:
    """Whether the distance compares maps of any number of channels."""
    return distance in _ignores_channels


def compares_places(distance: str) -> bool:
    """Whether the distance is blind on maps of one pixel."""
    return distance in _compares_places


def fits(
    pathway: Pathway, teacher_stage: Stage, student_stage: Stage, *, input_size: int | None = None
) -> str | None:
    """Why a pathway makes no sense between two stages; None when it does.

    `input_size` is the side of the data's images, from which the size of the teacher's map follows.
    """
    if compares_places(pathway.distance) and input_size is not None:
        blind = _why_blind(pathway, teacher_stage, input_size)
        if blind is not None:
            return blind
    if not keeps_channels(pathway.transform) or teacher_stage.channels == student_stage.channels:
        return None
    counts = (
        f"transform {pathway.transform!r} keeps the student's {student_stage.channels} channels, but "
        "{} compares them with the teacher's "
        f"{teacher_stage.channels}; use a transform that projects"
    )
    for operator in operators_of(pathway.transform):
        if _reshaping(operator).makes_places_of_channels:
            return counts.format(f"operator {operator!r}")
    if ignores_channels(pathway.distance):
        return None
    return (
        counts.format(f"distance {pathway.distance!r}")
        + f", or a distance that ignores channels ({', '.join(sorted(_ignores_channels))})"
    )


def _why_blind(pathway: Pathway, teacher_stage: Stage, input_size: int) -> str | None:
    """Why a distance that compares places sees none, after the pathway's operators; None where it does."""
    side = round(input_size / teacher_stage.reduction)
    has_one = "has one pixel"
    for operator in operators_of(pathway.transform):
        before, side = side, _side_after(operator, side, teacher_stage)
        if side <= 1 < before:
            has_one = f"has one pixel after operator {operator!r}"
    if side > 1:
        return None
    return (
        f"distance {pathway.distance!r} compares places, but the teacher's map at stage "
        f"{teacher_stage.index} {has_one}; use another distance or another connection"
    )


def _side_after(operator: str, side: int, teacher_stage: Stage) -> int:
    reshaping = _reshaping(operator)
    if reshaping.makes_places_of_channels:
        return teacher_stage.channels
    if reshaping.side is not None:
        return min(side, reshaping.side) if side <= 1 else reshaping.side
    return -(-side // reshaping.shrinks)


def _reshaping(operator: str) -> Reshaping:
    return _reshapes.get(operator, Reshaping())


def enumerate_pathways(
    connections: str | Sequence[Sequence[int]],
    transforms: Sequence[Chosen],
    distances: Sequence[Chosen],
    teacher_stages: Sequence[Stage],
    student_stages: Sequence[Stage],
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
            if fits(pathway, teacher_stage, student_stage, input_size=input_size) is None:
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
