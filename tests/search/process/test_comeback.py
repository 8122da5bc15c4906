"""On real data: a pathway that is skipped at first is tried now and then, pays, and is computed again."""

from __future__ import annotations

import pytest

from search.distill import Distillation, Material
from search.models import TappedModel
from search.recipe import Pathway, Point, Process
from search.records import Learning, RunParameters
from search.spec import Training
from tests.search.test_search_learns import digits, model, teacher

SKIP_BELOW = 0.005
RETRY = 3
TRAINING = Training(optimizer="sgd", learning_rate=0.1, schedule="constant")


def headed(seed: int) -> TappedModel:
    """A new student with the teacher's classifier: all it lacks is the teacher's last map."""
    student = model("test_resnet", seed)
    student.network.get_classifier().load_state_dict(teacher().network.get_classifier().state_dict())
    return student


def computed(seed: int) -> list[bool]:
    """At which steps the pathway was computed: the only teaching there is, so that under SGD more of it pays
    whatever the start."""
    last = len(teacher().stages) - 1
    process = Process(
        cross_entropy_weight=0.0,
        pathways=[Pathway(teacher_stage=last, student_stage=last, transform="identity", distance="mse")],
        skip_below=SKIP_BELOW,
        points=[Point(progress=0.0, pathway_weights=[0.6 * SKIP_BELOW])],
    )
    data = digits()
    run = Distillation(
        Material(
            student=headed(seed),
            teacher=teacher(),
            train=data.splits["train"],
            meta=data.splits["meta"],
        ),
        RunParameters(
            process=process, epochs=12, learn=Learning(learning_rate=0.1, retry_every_updates=RETRY)
        ),
        TRAINING,
        seed=seed,
    )
    return [bool(run.active(run.process.at(run.step / run.total_steps))) for _ in run.steps()]


def longest(steps: list[bool]) -> int:
    """So many steps in a row the pathway was computed."""
    return max(len(run) for run in "".join("x" if step else " " for step in steps).split(" "))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_skipped_pathway_that_pays_comes_back(seed: int) -> None:
    steps = computed(seed)
    assert sum(steps[: 2 * RETRY]) <= 3, "at first it is skipped, but for the retries"
    # Retries alone are single steps. Once it has taught what it can, it may be skipped again.
    assert longest(steps) >= 5 * RETRY
