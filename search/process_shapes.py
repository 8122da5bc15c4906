"""Edits of a process that arms and candidates are made of: held, averaged, pruned, shuffled.

Imports no torch.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise

from search.recipe import Point, Process

LAST_PART = 1 / 3
"""The part of training whose mean weights stand for what was learned: early ones are on their way."""
SMALLEST = 1e-6
"""Weights below are all the same: nothing."""


def held(process: Process) -> Process:
    """The end of a process, held from the first step to the last."""
    return _constant(process, process.points[-1])


def averaged(process: Process, *, last: float) -> Process:
    """The mean over the last part of training (a share of it), held from the first step to the last."""
    begin = 1.0 - last
    knots = [begin, *(point.progress for point in process.points if begin < point.progress < 1), 1.0]

    def mean(values: Sequence[float]) -> float:
        """Of the linear interpolation: trapezia, exactly."""
        areas = (
            (b - a) * (x + y) / 2 for (a, b), (x, y) in zip(pairwise(knots), pairwise(values), strict=True)
        )
        return math.fsum(areas) / last

    return _constant(process, _combined([at(process, progress) for progress in knots], mean))


def pruned(process: Process, kept: Sequence[int]) -> Process:
    """The process with these pathways only, in the order of the process."""
    indices = sorted(set(kept))
    points = [
        point.model_copy(update={"pathway_weights": [point.pathway_weights[index] for index in indices]})
        for point in process.points
    ]
    return process.model_copy(
        update={"pathways": [process.pathways[index] for index in indices], "points": points}
    )


def shuffled(process: Process, *, seed: int) -> Process:
    """The same points at other times: what remains of the gain does not come from the order in time.

    The permutation is a function of the seed, and never the identity where there are two points or more.
    """
    order = list(range(len(process.points)))
    generator = random.Random(f"shuffled:{seed}")
    while order == sorted(order) and len(order) > 1:
        generator.shuffle(order)
    points = [
        process.points[source].model_copy(update={"progress": point.progress})
        for source, point in zip(order, process.points, strict=True)
    ]
    return process.model_copy(update={"points": points})


def at(process: Process, progress: float) -> Point:
    """The process at a moment: linear between its points, the nearest one beyond them."""
    points = process.points
    after = next((place for place, point in enumerate(points) if point.progress >= progress), None)
    if after is None or after == 0:
        return points[-1 if after is None else 0].model_copy(update={"progress": progress})
    left, right = points[after - 1], points[after]
    share = (progress - left.progress) / (right.progress - left.progress)
    mixed = _combined([left, right], lambda values: values[0] + share * (values[1] - values[0]))
    return mixed.model_copy(update={"progress": progress})


def stays_near(process: Process, other: Process, *, within: float) -> bool:
    """Whether two processes over the same losses have, at every point of either, weights and temperatures
    that differ by this share at most."""
    moments = {point.progress for point in (*process.points, *other.points)}
    return all(
        math.isclose(one, two, rel_tol=within, abs_tol=SMALLEST)
        for progress in moments
        for one, two in zip(_values(at(process, progress)), _values(at(other, progress)), strict=True)
    )


def _constant(process: Process, point: Point) -> Process:
    return process.model_copy(update={"points": [point.model_copy(update={"progress": 0.0})]})


def _values(point: Point) -> list[float]:
    return [
        *point.logit_weights,
        *point.pathway_weights,
        *point.teacher_temperatures,
        *point.student_temperatures,
    ]


def _combined(points: Sequence[Point], combine: Callable[[Sequence[float]], float]) -> Point:
    """One point whose every value is combined from the values of these points."""

    def column(name: str) -> list[float]:
        return [combine(values) for values in zip(*(getattr(point, name) for point in points), strict=True)]

    return Point(
        progress=0.0,
        logit_weights=column("logit_weights"),
        pathway_weights=column("pathway_weights"),
        teacher_temperatures=column("teacher_temperatures"),
        student_temperatures=column("student_temperatures"),
    )
