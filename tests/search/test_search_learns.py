"""The search searches: it tells a teaching pathway from noise, and a bad temperature from a good one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from search.data import Dataset, open_dataset
from search.distill import Distillation, Material
from search.evaluate import evaluate
from search.models import TappedModel, build_model
from search.models.tapped import Taps
from search.randomness import permutation
from search.recipe import LogitLoss, Pathway, Point, Process, constant
from search.records import Learning, RunParameters
from search.spec import Splits, Training

TRAINING = Training(learning_rate=3e-3)


@cache
def digits() -> Dataset:
    return open_dataset("digits", Splits())


def model(name: str, seed: int) -> TappedModel:
    data = digits()
    return build_model(
        name, classes=10, channels=1, input_size=32, seed=seed, data_mean=data.mean, data_std=data.std
    )


@cache
def teacher() -> TappedModel:
    run = Distillation(
        Material(student=model("test_resnet", 0), teacher=None, train=digits().splits["train"]),
        RunParameters(process=constant(), epochs=15),
        TRAINING,
        seed=0,
    )
    for _ in run.steps():
        pass
    found = evaluate(run.student, digits().splits["validation"], batch_size=512, device="cpu")
    assert found.accuracy > 0.9, "the planted tests need a teacher that knows something"
    return run.student


class HalfNoiseTeacher(torch.nn.Module):
    """Stage 0 is the real teacher's last stage; stage 1 the same maps, but of other images of the batch."""

    def __init__(self, real: TappedModel) -> None:
        super().__init__()
        self.real = real
        last = real.stages[-1]
        self.stages = [last.model_copy(update={"index": index}) for index in (0, 1)]
        self.calls = 0

    def forward_taps(
        self, images: Tensor, stages: Sequence[int], *, taps: Taps
    ) -> tuple[Tensor, dict[int, Tensor]]:
        logits, maps = self.real.forward_taps(images, [len(self.real.stages) - 1], taps=taps)
        (last,) = maps.values()
        self.calls += 1
        return logits, {0: last, 1: last[permutation(len(images), self.calls)]}


def learn(process: Process, *, taught_by: torch.nn.Module, seed: int, epochs: int, rate: float) -> Process:
    data = digits()
    run = Distillation(
        Material(
            student=model("test_resnet", seed + 1),
            teacher=taught_by,  # type: ignore[arg-type]
            train=data.splits["train"],
            meta=data.splits["meta"],
        ),
        RunParameters(process=process, epochs=epochs, learn=Learning(learning_rate=rate)),
        TRAINING,
        seed=seed,
    )
    for _ in run.steps():
        pass
    return run.recorded()


@pytest.mark.parametrize("seed", range(5))
def test_noise_ends_below_a_fifth_of_the_informative_pathway(seed: int) -> None:
    last = len(teacher().stages) - 1
    process = Process(
        pathways=[
            Pathway(teacher_stage=stage, student_stage=last, transform="projection", distance="mse")
            for stage in (0, 1)
        ],
        points=[Point(progress=0.0, pathway_weights=[0.05, 0.05])],
    )
    learned = learn(process, taught_by=HalfNoiseTeacher(teacher()), seed=seed, epochs=20, rate=0.1)
    informative, noise = learned.points[-1].pathway_weights
    assert noise < informative / 5, f"informative {informative:.3f}, noise {noise:.3f}"


def test_a_bad_temperature_moves_toward_the_best_of_a_grid() -> None:
    grid = [1.0, 2.0, 4.0, 8.0, 16.0]
    losses = {temperature: validation_loss(temperature) for temperature in grid}
    best = min(losses, key=losses.__getitem__)
    bad = 16.0
    assert best < bad, f"the planted temperature must be bad: {losses}"
    process = Process(
        logit_losses=[LogitLoss()],
        points=[
            Point(progress=0.0, logit_weights=[1.0], teacher_temperatures=[bad], student_temperatures=[bad])
        ],
    )
    learned = learn(process, taught_by=teacher(), seed=0, epochs=10, rate=0.1)
    end = learned.points[-1]
    moved = (end.teacher_temperatures[0] + end.student_temperatures[0]) / 2
    assert abs(moved - best) < 0.75 * abs(bad - best), (
        f"from {bad} to {moved}, the best being {best}: {losses}"
    )
    assert all(later < bad for later in (end.teacher_temperatures[0], end.student_temperatures[0]))


def validation_loss(temperature: float) -> float:
    data = digits()
    run = Distillation(
        Material(student=model("test_resnet", 1), teacher=teacher(), train=data.splits["train"]),
        RunParameters(process=constant(logit_loss="kd", temperature=temperature), epochs=10),
        TRAINING,
        seed=0,
    )
    for _ in run.steps():
        pass
    return evaluate(run.student, data.splits["validation"], batch_size=512, device="cpu").loss
