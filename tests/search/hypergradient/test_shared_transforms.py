"""Pathways that share a transform: passes of the hypergradient leave it in place, and it goes on training."""

from __future__ import annotations

import pytest
import torch

from search.distill import Distillation
from search.recipe import Pathway, Point, Process
from search.records import Learning
from search.registry import Kind, methods
from search.spec import Training
from tests.search.training.runs import make_run

TRAINING = Training(batch_size=16, report_every_steps=1)
APPROXIMATIONS = [method.name for method in methods(Kind.HYPERGRADIENT)]


def a_search(name: str, lookahead: int) -> Distillation:
    pathways = [
        Pathway(teacher_stage=1, student_stage=1, transform="gated", distance=distance)
        for distance in ("mse", "l1")
    ]
    return make_run(
        TRAINING,
        process=Process(pathways=pathways, points=[Point(progress=0.0, pathway_weights=[0.3, 0.3])]),
        learn=Learning(
            learning_rate=0.05, hypergradient=name, lookahead_steps=lookahead, update_every_steps=lookahead
        ),
    )


@pytest.mark.parametrize("lookahead", [1, 2])
@pytest.mark.parametrize("name", APPROXIMATIONS)
def test_a_shared_transform_is_the_one_that_trains(name: str, lookahead: int) -> None:
    run = a_search(name, lookahead)
    tensors = {**dict(run.losses.named_parameters()), **dict(run.losses.named_buffers())}
    steps = run.steps()
    for _ in range(2):
        before = {key: value.detach().clone() for key, value in tensors.items()}
        for _ in range(lookahead):
            next(steps)
        now = {**dict(run.losses.named_parameters()), **dict(run.losses.named_buffers())}
        assert all(value is tensors[key] for key, value in now.items())
        first, second = run.losses.pathways
        assert first.transform is second.transform
        still = [key for key, value in tensors.items() if torch.equal(value, before[key]) and key != "scales"]
        assert still == []
