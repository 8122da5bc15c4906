"""Losses that give the student another head: no cross-entropy beside them, and no edit leaves them out."""

from __future__ import annotations

from search.planning.candidates import earned_pathways, shapes
from search.planning.logit_givers import logit_givers
from search.recipe import FeatureLoss, Process
from search.records import StageName
from tests.search.planning.simulated_job import SimulatedJob, finished
from tests.search.planning.test_nearest import CARDS, PREFLIGHT, spec_with
from tests.search.planning.test_process_shapes import process_of

SPACE = {"logit_losses": [["kd"], []], "feature_losses": [["head", "free"], ["free"]]}


def processes(job: SimulatedJob, stage: StageName) -> list[Process]:
    return [
        Process.model_validate(trial.parameters["process"])
        for key, trial in job.records.items()
        if key.stage is stage
    ]


def has_head(process: Process) -> bool:
    return any(isinstance(one, FeatureLoss) and one.loss == "head" for one in process.pathways)


def test_they_are_told_by_their_cards() -> None:
    pathways = [FeatureLoss(loss=name) for name in ("free", "head", "merged", "unheard_of")]
    assert logit_givers(pathways, CARDS) == [1]


def test_trials_with_one_have_neither_cross_entropy_nor_logit_losses() -> None:
    job = SimulatedJob(spec_with(SPACE, budget={"trials": 12}), preflight=PREFLIGHT)
    finished(job)
    found = processes(job, StageName.SEARCH)
    assert {has_head(process) for process in found} == {True, False}
    for process in found:
        assert (process.cross_entropy_weight == 0) == has_head(process)
        assert not (has_head(process) and process.logit_losses)


def test_no_edit_leaves_it_out() -> None:
    learned = process_of([[0.05] * 3, [1.0, 0.001, 0.02], [2.0, 0.0, 0.01]])
    start = learned.points[0]
    assert earned_pathways(learned, start) == [0]
    assert earned_pathways(learned, start, kept=[1]) == [0, 1]
    assert all(len(one.process.pathways) == 2 for one in shapes(learned, start, kept=[1]))
