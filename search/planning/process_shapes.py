"""Edits of a process that arms and candidates are made of: held, scaled, pruned, shuffled. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from search.planning.process_table import ProcessTable
from search.recipe import Process

NOTHING = 1e-6
"""Weights below are all the same: nothing."""


def held(process: Process) -> Process:
    """The end of a process, held from the first step to the last."""
    return process.model_copy(update={"points": [process.points[-1].model_copy(update={"progress": 0.0})]})


def scaled(process: Process, factor: float) -> Process:
    """All weights so many times as large, cross-entropy's too; under SGD a factor of the learning rate."""
    points = [
        point.model_copy(
            update={
                "cross_entropy_weight": _times(point.cross_entropy_weight, factor),
                "logit_weights": [factor * weight for weight in point.logit_weights],
                "pathway_weights": [factor * weight for weight in point.pathway_weights],
            }
        )
        for point in process.points
    ]
    return process.model_copy(
        update={"cross_entropy_weight": factor * process.cross_entropy_weight, "points": points}
    )


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


def stays_near(process: Process, other: Process, *, within: float) -> bool:
    """Whether two processes over the same losses have, at every point of either, weights and temperatures
    that differ by this share at most."""
    one, two = ProcessTable(process), ProcessTable(other)
    moments = np.union1d(one.progress, two.progress)
    return all(np.allclose(one.at(moment), two.at(moment), rtol=within, atol=NOTHING) for moment in moments)


def _times(weight: float | None, factor: float) -> float | None:
    return None if weight is None else factor * weight
