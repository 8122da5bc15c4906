"""On real data: a pathway that is skipped at first is tried now and then, pays, and is computed again."""

from __future__ import annotations

import pytest

from search.distill import Distillation, Material
from search.recipe import Pathway, Point, Process
from search.records import Learning, RunParameters
from tests.search.test_search_learns import TRAINING, digits, model, teacher

SKIP_BELOW = 0.005


def trained(seed: int) -> tuple[list[bool], float]:
    """At which steps the pathway was computed, and its largest weight."""
    last = len(teacher().stages) - 1
    process = Process(
        pathways=[Pathway(teacher_stage=last, student_stage=last, transform="projection", distance="mse")],
        skip_below=SKIP_BELOW,
        points=[Point(progress=0.0, pathway_weights=[0.003])],
    )
    data = digits()
    run = Distillation(
        Material(
            student=model("test_resnet", seed + 1),
            teacher=teacher(),
            train=data.splits["train"],
            meta=data.splits["meta"],
        ),
        RunParameters(process=process, epochs=24, learn=Learning(learning_rate=0.3, retry_every_updates=3)),
        TRAINING,
        seed=seed,
    )
    computed = [bool(run.active(run.process.at(run.step / run.total_steps))) for _ in run.steps()]
    return computed, max(point.pathway_weights[0] for point in run.recorded().points)


@pytest.mark.slow
def test_an_informative_pathway_that_starts_below_the_threshold_comes_back() -> None:
    came_back = []
    for seed in range(3):
        computed, peak = trained(seed)
        assert not all(computed[:20]), "skipped at first, but for the retries"
        # How far it grows in so few steps depends on the processor's rounding: peaks of 0.25 to 9 were seen.
        came_back.append(all(computed[-len(computed) // 5 :]) and peak > 10 * SKIP_BELOW)
    # With the projection that it starts from in one seed it does not pay, and stays about where it began.
    assert sum(came_back) >= 2
