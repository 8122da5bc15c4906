"""MKD: temperatures that follow the meta loss after one step, against that loss written out in numpy."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import special
from torch import Tensor, nn

from search.distill import Distillation, Material
from search.hypergradient import HyperGradient
from search.models import Preprocessing
from search.models.tapped import TappedModel
from search.process import MIN_TEMPERATURE, LearnedProcess
from search.records import Learning, RunParameters
from search.spec import Training
from tests.search.synthetic import blobs
from tests.search.temperature.batches import process
from tests.search.training.runs import model

Array = npt.NDArray[np.float64]
RATE, TEMPERATURES = 0.05, (2.0, 2.0)
TRAINING = Training(
    optimizer="sgd",
    learning_rate=RATE,
    momentum=0.0,
    nesterov=False,
    weight_decay=0.0,
    schedule="constant",
    batch_size=16,
    report_every_steps=1,
)


class Linear(nn.Module):
    """A linear map from pixels to logits."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.weight = nn.Parameter(0.02 * torch.randn(10, 32 * 32, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def search(learning_rate: float = 0.05) -> Distillation:
    preprocessing = Preprocessing(mean=(0.5,), std=(0.25,), size=32)
    student = TappedModel(
        Linear(), name="linear", preprocessing=preprocessing, data_size=32, img_size=None
    ).double()
    return Distillation(
        Material(
            student=student,
            teacher=model("test_resnet", seed=1).double(),
            train=blobs(48, seed=1),
            meta=blobs(32, seed=2),
        ),
        RunParameters(process=process("learned"), epochs=5, learn=Learning(learning_rate=learning_rate)),
        TRAINING,
        seed=3,
    )


def pixels(images: Tensor) -> Array:
    return ((images.double().numpy() - 0.5) / 0.25).reshape(len(images), -1)


def one_hot(labels: Tensor) -> Array:
    return np.eye(10)[labels.numpy()]


def stepped(weight: Array, x: Array, y: Array, z_t: Array, temperatures: tuple[float, float]) -> Array:
    """w - eta dL/dw of L = CE + c KL(p_t || p_s), with KD's factor c at the temperatures of now."""
    teacher, student = temperatures
    z_s = x @ weight.T
    slope = special.softmax(z_s, axis=1) - y
    factor = TEMPERATURES[0] * TEMPERATURES[1]
    softened = special.softmax(z_s / student, axis=1) - special.softmax(z_t / teacher, axis=1)
    slope += factor / student * softened
    return weight - RATE * slope.T @ x / len(x)


@pytest.mark.system("mkd")
class TestMetaKnowledgeDistillation:
    def test_the_hypergradient_is_the_finite_difference_of_the_meta_loss_after_the_step(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[HyperGradient] = []
        monkeypatch.setattr(LearnedProcess, "update", lambda _self, found, active: seen.append(found))
        run = search()
        weight = run.student.network.get_parameter("weight").detach().numpy().copy()
        batch, (meta_images, meta_labels) = run.batch(), run.meta_batch()
        assert batch.teacher_logits is not None
        next(run.steps())
        step = partial(
            stepped, weight, pixels(batch.images), one_hot(batch.targets), batch.teacher_logits.numpy()
        )
        after = run.student.network.get_parameter("weight").detach().numpy()
        np.testing.assert_allclose(step(TEMPERATURES), after, rtol=1e-6, atol=1e-9)

        def meta_loss(teacher: float, student: float) -> float:
            logits = pixels(meta_images) @ step((teacher, student)).T
            return float(-(special.log_softmax(logits, axis=1) * one_hot(meta_labels)).sum(axis=1).mean())

        teacher, student = TEMPERATURES
        by_teacher = (meta_loss(teacher + 1e-4, student) - meta_loss(teacher - 1e-4, student)) / 2e-4
        by_student = (meta_loss(teacher, student + 1e-4) - meta_loss(teacher, student - 1e-4)) / 2e-4
        assert float(seen[0].teacher_temperatures) == pytest.approx(by_teacher, rel=1e-5)
        assert float(seen[0].student_temperatures) == pytest.approx(by_student, rel=1e-5)

    @pytest.mark.parametrize("rate", [0.05, 5.0])
    def test_temperatures_move_and_stay_above_their_minimum(self, rate: float) -> None:
        run = search(rate)
        rows = [report.figures for report in run.steps() if report]
        for side in ("teacher", "student"):
            found = [row[f"temperature/{side}-0"] for row in rows]
            assert len(set(found)) == len(found)
            assert all(MIN_TEMPERATURE < value < np.inf for value in found)
