"""All trials of a job see the same data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search.plan import next_trials
from search.records import Fail, StageName, Start
from tests.search.planning.simulated_job import SimulatedJob, finished, make_spec


def test_every_run_is_to_see_the_data_that_preflight_saw() -> None:
    job = SimulatedJob(make_spec())
    finished(job)
    stages = (StageName.SEARCH, StageName.TUNING, StageName.PROOF)
    runs = [trial for stage in stages for trial in job.of(stage)]
    assert {run.parameters["data_sha256"] for run in runs} == {job.preflight["data_sha256"]}
    (export,) = job.of(StageName.EXPORT)
    assert export.parameters["run"]["data_sha256"] == job.preflight["data_sha256"]


@pytest.mark.parametrize(("sha256", "is_refused"), [("e" * 64, True), ("d" * 64, False), (None, False)])
def test_a_teacher_of_other_data_is_refused(sha256: str | None, is_refused: bool) -> None:
    job = SimulatedJob(make_spec())
    job.run_to(StageName.SEARCH)
    (taught,) = job.of(StageName.TEACHER)
    told = replace(taught, result={**(taught.result or {}), "data_sha256": sha256})
    before_search = [told, *job.of(StageName.PREFLIGHT)]
    action = next_trials(job.spec, before_search)
    assert isinstance(action, Fail if is_refused else Start)
    if isinstance(action, Fail):
        assert action.code == "data_differs"
