"""Processes for tests: by hand, and any that a recipe may hold."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from search.hypergradient import HyperGradient
from search.recipe import LogitLoss, Pathway, Point, Process

PATHWAYS = [
    Pathway(teacher_stage=stage, student_stage=stage, transform="projection", distance="mse")
    for stage in range(3)
]


def point(progress: float, *, logit: float, pathways: list[float], temperature: float = 3.0) -> Point:
    return Point(
        progress=progress,
        logit_weights=[logit],
        pathway_weights=pathways,
        teacher_temperatures=[temperature],
        student_temperatures=[temperature + 1],
    )


def process(*points: Point) -> Process:
    return Process(logit_losses=[LogitLoss()], pathways=PATHWAYS, points=list(points))


START = point(0.0, logit=1.0, pathways=[0.05, 0.2, 0.4])


def gradient(pathways: list[float], *, logit: float = 0.0, temperature: float = 0.0) -> HyperGradient:
    vector = [torch.tensor([value], dtype=torch.float64) for value in (logit, temperature, temperature)]
    return HyperGradient(vector[0], torch.tensor(pathways, dtype=torch.float64), vector[1], vector[2])


@st.composite
def processes(draw: st.DrawFn) -> Process:
    """Any number of losses, pathways and points, also at odd moments."""
    losses, pathways = draw(st.integers(0, 2)), draw(st.integers(0, 4))
    weights = st.floats(0, 1e3)
    temperatures = st.lists(st.floats(1e-2, 1e2), min_size=losses, max_size=losses)
    progress = draw(st.lists(st.floats(0, 1), min_size=1, max_size=6, unique=True))
    return Process(
        logit_losses=[LogitLoss()] * losses,
        pathways=[
            Pathway(teacher_stage=0, student_stage=stage, transform="linear", distance="l1", scale=stage + 1)
            for stage in range(pathways)
        ],
        cross_entropy_weight=draw(weights),
        unit_scaled=draw(st.booleans()),
        points=[
            Point(
                progress=at,
                cross_entropy_weight=draw(st.none() | weights),
                logit_weights=draw(st.lists(weights, min_size=losses, max_size=losses)),
                pathway_weights=draw(st.lists(weights, min_size=pathways, max_size=pathways)),
                teacher_temperatures=draw(temperatures),
                student_temperatures=draw(temperatures),
            )
            for at in sorted(progress)
        ],
    )
