"""The training loop: a continued run is bitwise an uninterrupted one; figures are finite or the run fails."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from search.checkpoint import from_bytes, to_bytes
from search.distill import Distillation, Material
from search.models import build_model
from search.pathway_rules import enumerate_pathways
from search.problems import NonFiniteFigure, SearchProblem
from search.recipe import LogitLoss, Point, Process, constant
from search.records import Learning, RunParameters
from search.spec import Training
from tests.search.synthetic import blobs

SGD = Training(optimizer="sgd", learning_rate=0.05, batch_size=16, report_every_steps=1)
ADAMW = Training(batch_size=16, report_every_steps=1, schedule="cosine")


def make_run(
    training: Training, *, learn: Learning | None, process: Process | None = None, seed: int = 5
) -> Distillation:
    models = [
        build_model(
            name, classes=10, channels=1, input_size=32, seed=seed, data_mean=(0.5,), data_std=(0.25,)
        )
        for name, seed in (("test_resnet", 1), ("test_vit", 2))
    ]
    return Distillation(
        Material(student=models[1], teacher=models[0], train=blobs(48, seed=1), meta=blobs(32, seed=2)),
        RunParameters(
            process=process or searching(models[0].stages, models[1].stages), epochs=3, learn=learn
        ),
        training,
        seed=seed,
    )


def searching(teacher: list, student: list) -> Process:
    pathways = enumerate_pathways("same_depth", ["gated"], ["mse"], teacher, student)
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
    return {**run.student.state_dict(), **run.losses.state_dict()}


@pytest.mark.parametrize("training", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("interruption", [1, 4, 8])
def test_a_continued_search_is_bitwise_an_uninterrupted_one(training: Training, interruption: int) -> None:
    learn = Learning(learning_rate=0.05, update_every_steps=2, record_points=5)
    whole = make_run(training, learn=learn)
    rows = [report.figures for report in whole.steps() if report]
    first = make_run(training, learn=learn)
    begun = [report.figures for report in islice(first.steps(), interruption) if report]
    torch.manual_seed(999)
    continued = make_run(training, learn=learn)
    continued.load(from_bytes(to_bytes(first.state())))
    ended = [report.figures for report in continued.steps() if report]
    assert begun + ended == rows
    assert continued.recorded() == whole.recorded()
    for (name, one), other in zip(weights(whole).items(), weights(continued).values(), strict=True):
        assert torch.equal(one, other), name


def test_a_replay_of_equal_seed_is_bitwise_equal_and_of_another_seed_is_not() -> None:
    process = constant(logit_loss="kd")
    runs = [make_run(SGD, learn=None, process=process) for _ in range(2)]
    rows = [[report.figures["loss"] for report in run.steps() if report] for run in runs]
    assert rows[0] == rows[1]
    other = make_run(SGD, learn=None, process=process, seed=6)
    assert [report.figures["loss"] for report in other.steps() if report] != rows[0]


def test_weight_zero_is_the_student_alone_bitwise() -> None:
    alone = make_run(SGD, learn=None, process=constant())
    muted = make_run(SGD, learn=None, process=constant(logit_loss="kd", logit_weight=0.0))
    for run in (alone, muted):
        for _ in run.steps():
            pass
    for one, other in zip(alone.student.parameters(), muted.student.parameters(), strict=True):
        assert torch.equal(one, other)


def test_scales_are_the_losses_of_the_first_step() -> None:
    run = make_run(SGD, learn=Learning(learning_rate=0.05))
    next(run.steps())
    measured = [pathway.scale for pathway in run.recorded().pathways]
    assert all(scale is not None and scale > 0 for scale in measured)
    twin = make_run(SGD, learn=None)
    batch = twin.batch()
    _, maps = twin.student.forward_taps(batch.images, twin.losses.student_stages())
    twin.losses.is_measured = True
    twin.losses.scales.fill_(1.0)
    raw = twin.losses.pathway_losses(maps, batch.teacher_maps)
    assert raw.tolist() == pytest.approx(measured, rel=1e-5)


def test_a_figure_that_is_not_finite_fails_the_run() -> None:
    run = make_run(SGD, learn=None, process=constant(logit_loss="kd", logit_weight=1e6, temperature=1e4))
    with torch.no_grad():
        next(run.student.parameters()).fill_(float("inf"))
    with pytest.raises(NonFiniteFigure, match="at step 1"):
        next(run.steps())


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run = make_run(SGD, learn=Learning(learning_rate=0.05))
    next(run.steps())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"student_stage": 9}, "pathway_does_not_fit", "stage 9 of the student"),
        ({"teacher_stage": 9}, "pathway_does_not_fit", "stage 9 of the teacher"),
        ({"teacher": 1}, "pathway_does_not_fit", "several teachers"),
        ({"transform": "unheard"}, "unknown_method", "plug-in"),
    ],
)
def test_a_process_of_other_models_is_refused_in_words(change: dict, code: str, said: str) -> None:
    pathway = {"teacher_stage": 0, "student_stage": 0, "transform": "projection", "distance": "mse", **change}
    process = Process.model_validate(
        {"pathways": [pathway], "points": [{"progress": 0.0, "pathway_weights": [1.0]}]}
    )
    with pytest.raises(SearchProblem, match=said) as caught:
        make_run(SGD, learn=None, process=process)
    assert caught.value.code == code


def test_a_transform_that_draws_numbers_draws_them_from_the_runs_own_seed() -> None:
    losses = []
    for outside in (1, 2):
        run = make_run(SGD, learn=Learning(learning_rate=0.05))
        for loss in run.losses.pathways:
            loss.transform = Dropping(loss.transform)
        torch.manual_seed(outside)
        losses.append([report.figures["loss"] for report in islice(run.steps(), 3) if report])
    assert losses[0] == losses[1]


class Dropping(torch.nn.Module):
    """A transform, and dropout after it."""

    def __init__(self, transform: torch.nn.Module) -> None:
        super().__init__()
        self.transform = transform
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, student_map: Tensor, teacher_shape: tuple[int, int, int]) -> Tensor:
        found: Tensor = self.dropout(self.transform(student_map, teacher_shape))
        return found
