"""Small searches in float64 for the tests of hypergradients, and a way to catch what they find."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from search.distill import Distillation, Material
from search.hypergradient import Approximation, HyperGradient
from search.models import build_model
from search.recipe import FeatureLoss, LogitLoss, Pathway, Point, Process
from search.records import Learning, RunParameters
from search.spec import Training
from tests.search.synthetic import blobs

TRAINING = {
    "sgd": Training(optimizer="sgd", momentum=0.0, nesterov=False, weight_decay=5e-4, learning_rate=0.05),
    "momentum": Training(
        optimizer="sgd", momentum=0.9, nesterov=False, weight_decay=5e-4, learning_rate=0.05
    ),
    "nesterov": Training(optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=5e-4, learning_rate=0.05),
    "adam": Training(optimizer="adam", learning_rate=3e-3, weight_decay=0.05),
    "adamw": Training(optimizer="adamw", learning_rate=3e-3, weight_decay=0.05),
}
PAIRS = {"cnn": "test_resnet", "vit": "test_vit"}
PARTS = ("logit_weights", "pathway_weights", "teacher_temperatures", "student_temperatures")


def make_run(
    training: Training,
    student_name: str,
    *,
    hypergradient: Approximation | None = None,
    transform: str = "projection",
    stages: tuple[int, int] = (-1, -1),
    parameters: Sequence[float] | None = None,
    whole: Sequence[str] = (),
    process: Process | None = None,
    learned: Process | None = None,
    learn: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float64,
    batch_size: int = 16,
    epochs: int = 3,
) -> Distillation:
    """A small run, two logit losses, three pathways and `whole` feature losses; it learns, from `learned`
    where that is given, unless a process is given. The first pathway joins these `stages` of teacher and
    student; `parameters` are its meta parameters."""
    train, meta = blobs(3 * batch_size, seed=1), blobs(2 * batch_size, seed=2)
    models = [
        build_model(
            name, classes=10, channels=1, input_size=32, seed=seed, data_mean=(0.5,), data_std=(0.25,)
        ).to(dtype)
        for name, seed in (("test_resnet", 1), (student_name, 2))
    ]
    joined = [model.stages[place].index for model, place in zip(models, stages, strict=True)]
    started = (
        process
        or learned
        or Process(
            logit_losses=[LogitLoss(), LogitLoss()],
            pathways=[
                Pathway(
                    teacher_stage=joined[0],
                    student_stage=joined[1],
                    transform=transform,
                    distance="mse",
                    parameters=None if parameters is None else [*parameters],
                ),
                Pathway(teacher_stage=1, student_stage=1, transform="projection", distance="hcl"),
                Pathway(teacher_stage=1, student_stage=1, transform="identity", distance="attention"),
                *(FeatureLoss(loss=name) for name in whole),
            ],
            points=[
                Point(
                    progress=0.0,
                    logit_weights=[1.0, 0.3],
                    pathway_weights=[0.7, 0.2, 1.5, *[0.4 for _ in whole]],
                    teacher_temperatures=[2.0, 3.5],
                    student_temperatures=[2.5, 1.7],
                )
            ],
        )
    )
    run = Distillation(
        Material(student=models[1], teacher=models[0], train=train, meta=meta),
        RunParameters(
            process=started,
            epochs=epochs,
            learn=Learning(**{"learning_rate": 0.05, **(learn or {})}) if process is None else None,
        ),
        training.model_copy(update={"batch_size": batch_size, "report_every_steps": 1}),
        seed=3,
        hypergradient=hypergradient,
    )
    run.losses.to(dtype)
    return run


def caught_after(run: Distillation, steps: int) -> tuple[HyperGradient, dict[str, Any], list[float]]:
    """The hypergradient of the last window within so many steps; the state before that window; the learning
    rates of its steps.
    """
    assert run.learning is not None
    caught: list[HyperGradient] = []
    update = run.learning.process.update

    def spy(gradient: HyperGradient, **keywords: Any) -> None:
        caught.append(gradient)
        update(gradient, **keywords)

    run.learning.process.update = spy  # type: ignore[method-assign]
    window = run.learning.learn.lookahead_steps
    going = run.steps()
    for _ in range(steps - window):
        next(going)
    before = copy.deepcopy(run.state())
    rates = []
    for _ in range(window):
        rates.append(float(run.optimizer.param_groups[0]["lr"]))
        next(going)
    return caught[-1], before, rates


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """|found - truth| / |truth|."""
    assert truth.norm() > 0
    return float((found - truth).norm() / truth.norm())


def whole(found: HyperGradient) -> torch.Tensor:
    """All of it as one vector."""
    return torch.cat([getattr(found, part) for part in PARTS])
