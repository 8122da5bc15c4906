"""Small runs of the training loop: a tiny ResNet teaches a tiny network, on synthetic images."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor

from search.checkpoint import from_bytes, to_bytes
from search.distill import Distillation, Material
from search.models import TappedModel, build_model
from search.pathway_rules import MapFacts, enumerate_pathways
from search.recipe import LogitLoss, Point, Process
from search.records import Learning, RunParameters
from search.spec import Training
from tests.search.synthetic import blobs


def model(name: str, *, seed: int, channels: int = 1) -> TappedModel:
    return build_model(
        name,
        classes=10,
        channels=channels,
        input_size=32,
        seed=seed,
        data_mean=(0.5,) * channels,
        data_std=(0.25,) * channels,
    )


def make_run(
    training: Training,
    *,
    learn: Learning | None = None,
    process: Process | None = None,
    seed: int = 5,
    student: str = "test_vit",
    images: int = 48,
    epochs: int = 3,
    channels: int = 1,
    device: str = "cpu",
    **material: object,
) -> Distillation:
    """By default a process of a logit loss and the pathways of equal depth."""
    teacher, pupil = (
        model("test_resnet", seed=1, channels=channels),
        model(student, seed=2, channels=channels),
    )
    return Distillation(
        Material(
            student=pupil,
            teacher=teacher,
            train=blobs(images, seed=1, channels=channels),
            meta=blobs(32, seed=2, channels=channels),
            **material,  # type: ignore[arg-type]
        ),
        RunParameters(process=process or searching(teacher, pupil), epochs=epochs, learn=learn),
        training,
        seed=seed,
        device=device,
    )


def searching(teacher: TappedModel, student: TappedModel) -> Process:
    facts = MapFacts()
    pathways = enumerate_pathways("same_depth", ["gated"], ["mse"], teacher.stages, student.stages, facts)
    return Process(
        logit_losses=[LogitLoss()],
        pathways=pathways,
        points=[
            Point(
                progress=0.0,
                logit_weights=[1.0],
                pathway_weights=[0.05] * len(pathways),
                teacher_temperatures=[2.0],
                student_temperatures=[2.0],
            )
        ],
    )


def weights(run: Distillation) -> dict[str, Tensor]:
    found = {**run.student.state_dict(), **run.losses.state_dict()}
    if run.average is not None:
        found |= {f"average.{name}": value for name, value in run.average.state_dict().items()}
    return {name: value.clone() for name, value in found.items()}


def finished(run: Distillation) -> list[dict[str, float]]:
    """Run to the end; the figures of its reports."""
    return [report.figures for report in run.steps() if report]


def assert_resumes_bitwise(training: Training, *, at: int, **arguments: object) -> None:
    """A run killed after `at` steps and continued by another process's worth of state ends as one that was
    not: figures, process, weights, the average of weights.
    """
    whole = make_run(training, **arguments)  # type: ignore[arg-type]
    rows = finished(whole)
    first = make_run(training, **arguments)  # type: ignore[arg-type]
    begun = [report.figures for report in islice(first.steps(), at) if report]
    torch.manual_seed(999)
    continued = make_run(training, **arguments)  # type: ignore[arg-type]
    continued.load(from_bytes(to_bytes(first.state())))
    assert begun + finished(continued) == rows
    assert continued.recorded() == whole.recorded()
    ended = weights(continued)
    for name, value in weights(whole).items():
        assert torch.equal(value, ended[name]), name
