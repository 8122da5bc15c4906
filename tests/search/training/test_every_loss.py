"""Every loss of the registries in the training loop: absent at weight 0, and learned on a few images."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from statistics import fmean

import pytest
import torch

from search.distill import Distillation, Material
from search.models import TappedModel
from search.recipe import FeatureLoss, LogitLoss, Pathway, Point, Process, constant
from search.records import RunParameters
from search.registry import Kind, Method, load_everything, methods
from search.spec import Training
from tests.search.synthetic import blobs
from tests.search.training.runs import finished, model

load_everything()

IMAGES = 32
TRAINING = Training(
    batch_size=IMAGES,
    optimizer="adamw",
    learning_rate=3e-3,
    schedule="constant",
    augmentation="none",
    report_every_steps=1,
)
STEPS = 25
FALL = 0.03
"""As a part of where it began: VID keeps the logarithms of its variances."""
LOSSES = [*methods(Kind.LOGIT_LOSS), *methods(Kind.FEATURE_LOSS)]
ADDED = [method for method in LOSSES if not method.card.owns]
"""Those that leave the student's forward pass alone."""
JOINED = [
    *((method.name, "gram" if method.card.keeps_channels else "mse") for method in methods(Kind.TRANSFORM)),
    *(("projection", method.name) for method in methods(Kind.DISTANCE)),
    *((f"projection+{method.name}", "mse") for method in methods(Kind.OPERATOR)),
]
"""Every transform, every distance, and every operator between two."""


def name_of(method: Method) -> str:
    return f"{method.kind}/{method.name}"


def process(method: Method | None, *, weight: float, cross_entropy_weight: float = 1.0) -> Process:
    is_logit_loss = method is not None and method.kind is Kind.LOGIT_LOSS
    logit_losses = [LogitLoss(name=method.name)] if is_logit_loss and method else []
    pathways = [] if is_logit_loss or method is None else [FeatureLoss(loss=method.name)]
    point = Point(
        progress=0.0,
        logit_weights=[weight] * len(logit_losses),
        pathway_weights=[weight] * len(pathways),
        teacher_temperatures=[2.0] * len(logit_losses),
        student_temperatures=[2.0] * len(logit_losses),
    )
    return Process(
        cross_entropy_weight=cross_entropy_weight,
        logit_losses=logit_losses,
        pathways=pathways,
        points=[point],
    )


@lru_cache
def teacher() -> TappedModel:
    """Sure of the images' classes: of one that is not, cross-entropy has no way to go."""
    material = Material(student=model("resnet8_w32", seed=1), teacher=None, train=blobs(IMAGES, seed=1))
    run = Distillation(material, RunParameters(process=constant(), epochs=40), TRAINING, seed=0)
    finished(run)
    return run.trained.eval()


def run_of(of: Process, *, epochs: int = 2) -> Distillation:
    material = Material(student=model("resnet8_w8", seed=2), teacher=teacher(), train=blobs(IMAGES, seed=1))
    return Distillation(material, RunParameters(process=of, epochs=epochs), TRAINING, seed=5)


@pytest.fixture(scope="module")
def plain() -> Distillation:
    run = run_of(process(None, weight=0.0))
    finished(run)
    return run


def losses_of(of: Process) -> list[float]:
    """The training loss at each of so many steps on the same images."""
    run = run_of(of, epochs=STEPS)
    return [report.figures["loss"] for report in islice(run.steps(), STEPS) if report]


@pytest.mark.parametrize("method", ADDED, ids=name_of)
def test_at_weight_zero_the_student_is_trained_by_labels_alone_to_the_bit(
    method: Method, plain: Distillation
) -> None:
    run = run_of(process(method, weight=0.0))
    finished(run)
    found = run.student.state_dict()
    for name, value in plain.student.state_dict().items():
        assert torch.equal(value, found[name]), name


@pytest.mark.parametrize("method", LOSSES, ids=name_of)
def test_it_falls_when_a_student_is_trained_by_it_on_32_images(method: Method) -> None:
    """Alone, without labels beside it."""
    values = losses_of(process(method, weight=1.0, cross_entropy_weight=0.0))
    assert len(values) == STEPS
    assert fmean(values[-5:]) < values[0] - FALL * abs(values[0])


@pytest.mark.parametrize(("transform", "distance"), JOINED)
def test_a_pathway_falls_too(transform: str, distance: str) -> None:
    pathway = Pathway(teacher_stage=2, student_stage=1, transform=transform, distance=distance)
    of = Process(
        cross_entropy_weight=0.0,
        pathways=[pathway],
        points=[Point(progress=0.0, pathway_weights=[1.0])],
    )
    values = losses_of(of)
    assert fmean(values[-5:]) < values[0] - FALL * abs(values[0])
