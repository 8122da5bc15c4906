"""Losses with views, or with a second teacher, in the training loop and in a search."""

from __future__ import annotations

import pytest
import torch

from search.features import Before, Extra, FeatureLossModule, Seen
from search.recipe import FeatureLoss, Process
from search.recipe import Point as RecipePoint
from search.records import Learning
from search.spec import Training
from tests.search.test_search_learns import learn, teacher
from tests.search.training.runs import assert_resumes_bitwise, finished, make_run

NAMES = ("mlkd", "sskd", "ltd", "r2kd")
TRAINING = Training(optimizer="sgd", learning_rate=0.05, batch_size=16, report_every_steps=1)
LEARN = Learning(learning_rate=0.1, update_every_steps=2)


def process(*weights: float, names: tuple[str, ...]) -> Process:
    """Feature losses alone, at these weights."""
    return Process(
        pathways=[FeatureLoss(loss=name) for name in names],
        points=[RecipePoint(progress=0.0, pathway_weights=list(weights))],
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("student", ["test_vit", "test_resnet"])
def test_weight_zero_is_the_run_without_it_to_the_bit(name: str, student: str) -> None:
    """BatchNorm's statistics too."""
    without = make_run(TRAINING, process=process(0.3, names=("rkd",)), student=student)
    silent = make_run(TRAINING, process=process(0.3, 0.0, names=("rkd", name)), student=student)
    finished(without)
    finished(silent)
    found = silent.student.state_dict()
    for key, value in without.student.state_dict().items():
        assert torch.equal(value, found[key]), key


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [1, 4])
def test_a_search_continues_bitwise(name: str, at: int) -> None:
    assert_resumes_bitwise(TRAINING, at=at, process=process(0.1, names=(name,)), learn=LEARN)


@pytest.mark.parametrize("name", NAMES)
def test_a_search_whose_window_is_open_continues_bitwise(name: str) -> None:
    """The batch of its first step is made again: an attack too, of the student as it was."""
    long = LEARN.model_copy(update={"lookahead_steps": 2, "update_every_steps": 3})
    assert_resumes_bitwise(TRAINING, at=4, process=process(0.1, names=(name,)), learn=long)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate_parts": 2},
        {"precision": "bfloat16"},
        {"cutmix_alpha": 1.0},
        {"channels_last": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_it_trains_in_parts_in_low_precision_and_on_mixed_images(
    name: str, settings: dict[str, object]
) -> None:
    run = make_run(
        Training.model_validate({**TRAINING.model_dump(), **settings}),
        process=process(0.3, names=(name,)),
        student="test_resnet",
        learn=LEARN,
        channels=3,
        epochs=1,
    )
    before = [value.clone() for value in run.student.parameters()]
    assert len(finished(run)) == 3
    assert any(not torch.equal(*both) for both in zip(before, run.student.parameters(), strict=True))


class Watching(FeatureLossModule):
    """Shows the student the images once more, and keeps what it was given."""

    needs_extra = True

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Before] = []

    def extra(self, before: Before) -> Extra:
        self.given.append(before)
        return Extra(before.images[:, None], {"indices": before.indices})

    def forward(self, seen: Seen) -> torch.Tensor:
        assert seen.views is not None
        assert torch.equal(seen.extra.tensors["indices"], seen.indices)
        return seen.views.logits.square().mean()


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_extras_are_made_of_a_batch_in_the_parts_in_which_the_student_learns(parts: int) -> None:
    training = TRAINING.model_copy(update={"accumulate_parts": parts})
    run = make_run(training, process=process(0.1, names=("r2kd",)))
    loss = Watching()
    run.losses.pathways[0], run.extras._asking = loss, {0: loss}
    batch = run.batch()
    assert [len(before.images) for before in loss.given] == [16 // parts] * parts
    assert torch.equal(torch.cat([before.images for before in loss.given]), batch.images)
    assert torch.equal(batch.extras[0].tensors["indices"], batch.indices)
    views = batch.extras[0].views
    assert views is not None
    assert torch.equal(views[:, 0], batch.images)
    assert len(finished(run)) == 9


@pytest.mark.parametrize("name", NAMES)
def test_a_short_search_on_digits_learns_its_weight(name: str) -> None:
    started = process(0.1, names=(name,))
    learned = learn(started, taught_by=teacher(), seed=0, epochs=2, rate=0.1)
    assert learned.points[-1].pathway_weights != started.points[0].pathway_weights
    assert learned.pathways[0].scale is not None
    assert learned.pathways[0].scale > 1e-3
