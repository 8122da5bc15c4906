"""Meta losses against formulas of their own, and what a search does with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from search.data import UNLABELLED
from search.distill import Distillation, Material
from search.models.embedding import EMBEDDING
from search.planning.arms import kd, plain_kd
from search.problems import SearchProblem
from search.recipe import FeatureLoss, LogitLoss, Point, Process, TemperatureRule
from search.records import Learning, RunParameters
from search.spec import Training
from search.training.meta_losses import META_LOSSES, MetaBatchLoss, similarity_difference
from tests.search.synthetic import blobs
from tests.search.training.runs import model

ROWS = 12


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs(seed: int, width: int) -> tuple[Tensor, dict[int, Tensor]]:
    embedding = random(ROWS, width, seed=seed + 100).requires_grad_()
    return random(ROWS, 5, seed=seed).requires_grad_(), {EMBEDDING: embedding[:, :, None, None]}


class TestFormulas:
    def test_logits(self) -> None:
        student, teacher = outputs(0, 4), outputs(1, 7)
        log_student, log_teacher = (
            np.log(np.exp(each[0].detach().numpy()) / np.exp(each[0].detach().numpy()).sum(1, keepdims=True))
            for each in (student, teacher)
        )
        expected = (np.exp(log_teacher) * (log_teacher - log_student)).sum(1).mean()
        found = META_LOSSES["teacher_logits"].of(student, teacher, torch.zeros(0))
        assert float(found.detach()) == pytest.approx(expected, rel=1e-12)

    def test_embeddings_of_different_widths(self) -> None:
        student, teacher = outputs(0, 4), outputs(1, 7)
        cosines = []
        for said in (student, teacher):
            values = said[1][EMBEDDING].detach().flatten(1).numpy()
            lengths = np.sqrt((values**2).sum(1))
            cosines.append(values @ values.T / np.outer(lengths, lengths))
        squared = (cosines[0] - cosines[1]) ** 2
        expected = (squared.sum() - np.trace(squared)) / (ROWS * (ROWS - 1))
        found = META_LOSSES["teacher_embeddings"].of(student, teacher, torch.zeros(0))
        assert float(found.detach()) == pytest.approx(expected, rel=1e-12)

    def test_a_turned_and_stretched_embedding_is_as_good(self) -> None:
        teacher = random(ROWS, 7, seed=1)
        turn = torch.linalg.qr(random(9, 7, seed=2)).Q
        assert float(similarity_difference(3 * teacher @ turn.T, teacher)) == pytest.approx(0, abs=1e-24)

    @pytest.mark.parametrize("width", [4, 7])
    def test_the_gradient_reaches_the_student_and_is_right(self, width: int) -> None:
        student, teacher = random(6, width, seed=0).requires_grad_(), random(6, 7, seed=1)
        assert torch.autograd.gradcheck(lambda given: similarity_difference(given, teacher), student)

    @pytest.mark.parametrize("value", [0.0, 3.0])
    def test_it_is_finite_on_silent_and_on_constant_embeddings(self, value: float) -> None:
        student = torch.full((4, 3), value).requires_grad_()
        loss = similarity_difference(student, random(4, 5, seed=0).float())
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()


def unlabelled_run(meta_loss: str, *, feature: bool, **training: object) -> Distillation:
    """A search of KD, or of an embedding's loss alone, on images without labels."""
    losses = [] if feature else [LogitLoss()]
    pathways = [FeatureLoss(loss="tintem"), FeatureLoss(loss="rkd")] if feature else []
    point = Point(
        progress=0.0,
        logit_weights=[1.0] * len(losses),
        pathway_weights=[0.5] * len(pathways),
        teacher_temperatures=[2.0] * len(losses),
        student_temperatures=[2.0] * len(losses),
    )
    return Distillation(
        Material(
            student=model("resnet8_w8", seed=2),
            teacher=model("test_resnet", seed=1),
            train=blobs(48, seed=1).without_labels(),
            meta=blobs(32, seed=2).without_labels(),
        ),
        RunParameters(
            process=Process(cross_entropy_weight=0.0, logit_losses=losses, pathways=pathways, points=[point]),
            epochs=2,
            learn=Learning.model_validate({"learning_rate": 0.1, "meta_loss": meta_loss}),
        ),
        Training.model_validate({"batch_size": 16, **training}),
        seed=5,
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(
    ("meta_loss", "feature"),
    [("teacher_logits", False), ("teacher_embeddings", False), ("teacher_embeddings", True)],
)
def test_a_search_without_labels_learns(meta_loss: str, feature: bool, optimizer: str) -> None:
    run = unlabelled_run(meta_loss, feature=feature, optimizer=optimizer)
    assert int(run.batches.train.labels.max()) == UNLABELLED
    reports = [report for report in run.steps() if report]
    assert all(math.isfinite(value) for report in reports for value in report.figures.values())
    assert all("cross_entropy" not in report.figures for report in reports)
    first, last = run.recorded().points[0], run.recorded().points[-1]
    assert all(point.cross_entropy_weight == 0 for point in (first, last))
    learned = (last.pathway_weights, last.teacher_temperatures)
    assert learned != (first.pathway_weights, first.teacher_temperatures)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_and_parts(precision: str) -> None:
    run = unlabelled_run("teacher_embeddings", feature=True, accumulate_parts=2, precision=precision)
    assert len(list(run.steps())) == 6
    assert all(math.isfinite(weight) for weight in run.recorded().points[-1].pathway_weights)


def test_parts_of_the_meta_batch_add_up() -> None:
    """KL is a mean over images, and these networks look at each image by itself."""
    student, teacher = model("test_vit", seed=2), model("test_resnet", seed=1)
    images, none = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(8)
    student.eval()
    teacher.eval()
    loss = MetaBatchLoss("teacher_logits", student=student, teacher=teacher, precision="float32")
    whole = loss.of(images, none)
    parts = [float(loss.of(part, none).detach()) for part in images.tensor_split(2)]
    assert float(whole.detach()) == pytest.approx(sum(parts) / 2, rel=1e-5)


def test_mixed_images_have_no_labels_either() -> None:
    run = unlabelled_run("teacher_logits", feature=False, mixup_alpha=1.0)
    assert len(list(run.steps())) == 6
    assert run.batch().targets.tolist() == [UNLABELLED] * 16


def test_a_step_on_which_nothing_is_active_changes_nothing_by_its_gradient() -> None:
    run = unlabelled_run("teacher_embeddings", feature=True)
    batch = run.batch()
    logits = run.student(batch.images)
    loss, _ = run.losses.total(
        run.process.at(0.0),
        active=(),
        student_logits=logits,
        teacher_logits=batch.teacher_logits,
        student_maps={},
        teacher_maps={},
        targets=batch.targets,
    )
    parameters = list(run.student.parameters())
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True)
    assert float(loss.detach()) == 0
    assert all(not gradient.any() for gradient in gradients)


def ruled(rule: str) -> Process:
    """KD without cross-entropy whose temperatures come from a rule."""
    loss = LogitLoss(name="kd", temperature_rule=TemperatureRule(name=rule))
    return kd(temperature=4.0).model_copy(update={"logit_losses": [loss]})


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (plain_kd(), "cross-entropy"),
        (
            kd(temperature=4.0).model_copy(update={"logit_losses": [LogitLoss(name="dkd")]}),
            "'dkd' needs labels",
        ),
        (ruled("dts"), "temperature rule 'dts' needs labels"),
    ],
)
def test_a_process_that_needs_labels_is_refused(process: Process, words: str) -> None:
    student, teacher = model("resnet8_w8", seed=2), model("test_resnet", seed=1)
    material = Material(student=student, teacher=teacher, train=blobs(32, seed=1).without_labels())
    with pytest.raises(SearchProblem, match=words) as caught:
        Distillation(material, RunParameters(process=process, epochs=1), Training(batch_size=16), seed=0)
    assert caught.value.code == "labels_needed"


def test_the_teacher_gets_no_gradient_and_stays_as_it_is() -> None:
    run = unlabelled_run("teacher_embeddings", feature=True)
    assert run.teacher is not None
    before = {name: value.clone() for name, value in run.teacher.state_dict().items()}
    list(run.steps())
    assert all(torch.equal(value, before[name]) for name, value in run.teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in run.teacher.parameters())
