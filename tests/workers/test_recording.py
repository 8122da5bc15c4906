"""The driver's writing: fenced, and as the next driver reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.records import CurvePoint, Proposal, StageName, Stopped, TrialError, TrialKey, TrialState
from service.settings import Settings
from service.store import reports
from service.store.errors import LeaseLost, StateConflict
from service.store.session import Store
from service.store.states import EventKind, JobState
from tests.workers.claimed_job import ClaimedJob
from workers.assignment import Completed, Reported, StoredFile
from workers.recording import RecordedTrial, Recorder

KEY = TrialKey(StageName.SEARCH, "searched", 3, 1)
FILE = StoredFile(name="teacher.safetensors", path="jobs/x/y", bytes=4, sha256="0" * 64)
RECIPE = {
    "schema_version": 1,
    "arm": "searched",
    "task": {"teachers": [{"model": "big"}], "student": {"model": "small"}, "data": "digits"},
}


@pytest.fixture
def job(store: Store, tmp_path: Path) -> ClaimedJob:
    """A claimed job, on each engine."""
    return ClaimedJob(store, Settings(home=tmp_path))


def propose(recorder: Recorder) -> RecordedTrial:
    (trial,) = recorder.propose([Proposal(KEY, {"epochs": 3})])
    return trial


def reported(step: int, *, accuracy: float | None = None) -> Reported:
    figures = {"loss": 1.0} if accuracy is None else {"loss": 1.0, "accuracy": accuracy}
    return Reported(
        step=step,
        epoch=float(step),
        figures=figures,
        is_validation=accuracy is not None,
        device_seconds=float(step),
    )


def completed(**result: Any) -> Completed:
    return Completed(result=result, files=[FILE], device_seconds=2.5)


class TestLoad:
    def test_gives_back_what_was_recorded(self, job: ClaimedJob) -> None:
        recorder = job.recorder()
        trial = propose(recorder)
        recorder.stage_begins(StageName.SEARCH, progress={"stage": "search", "message": "begun"})
        recorder.progress({"stage": "search", "message": "well"}, tell=True)
        recorder.started(trial.id, node="here")
        recorder.report(trial.id, reported(1))
        recorder.report(trial.id, reported(2, accuracy=0.5))
        loaded = job.recorder().load()
        assert (loaded.spec, loaded.dry_run, loaded.stage) == (job.spec, False, StageName.SEARCH)
        ((found,),) = (loaded.trials,)
        assert found.id == trial.id
        assert found.record.key == KEY
        assert found.record.state is TrialState.RUNNING
        assert found.record.parameters == {"epochs": 3}
        assert found.record.curve == (CurvePoint(2, 2.0, 0.5),)

    def test_with_results_errors_and_files(self, job: ClaimedJob) -> None:
        recorder = job.recorder()
        trial = propose(recorder)
        recorder.completed(trial.id, completed(accuracy=0.75), is_preflight=False)
        (other,) = recorder.propose([Proposal(TrialKey(StageName.TUNING, "tuned_kd", 0, 0), {})])
        recorder.failed(other.id, TrialError("nan", "too hot"), device_seconds=1.5)
        first, second = job.recorder().load().trials
        assert first.files == (FILE,)
        assert first.record.result == {"accuracy": 0.75}
        assert first.record.device_seconds == 2.5
        assert second.record.error == TrialError("nan", "too hot")
        assert second.record.state is TrialState.FAILED

    def test_of_a_job_that_is_not_there(self, job: ClaimedJob) -> None:
        lease = job.lease
        with pytest.raises(LookupError, match="no job"):
            Recorder(job.store, type(lease)("job_none", 1, 1)).load()


class TestWriting:
    def test_an_early_stop_has_its_reason_and_no_row_beyond(self, job: ClaimedJob) -> None:
        recorder = job.recorder()
        trial = propose(recorder)
        recorder.started(trial.id, node="here")
        for step in range(1, 6):
            recorder.report(trial.id, reported(step))
        job.lose()
        recorder = job.recorder()
        recorder.started(trial.id, node="there")
        recorder.report(trial.id, reported(3))
        stopped = Stopped(step=3, value=0.2, threshold=0.5, rule="median")
        recorder.stopped_early(trial.id, stopped, step=3, device_seconds=3.0)
        with job.store.session() as session:
            rows = reports.of_trial(session, trial_id=trial.id)
        assert [(row.step, row.attempt) for row in rows] == [(1, 1), (2, 1), (3, 2)]
        (row,) = job.trials()
        assert row.stopped == {"step": 3, "value": 0.2, "threshold": 0.5, "rule": "median"}
        assert job.recorder().load().trials[0].record.stopped == stopped

    def test_success_stores_report_and_recipe_together(self, job: ClaimedJob) -> None:
        job.recorder().succeed(message="well done", report={"verdict": 1}, recipe=RECIPE)
        row = job.row()
        assert (row.state, row.status_message, row.report) == (
            JobState.SUCCEEDED,
            "well done",
            {"verdict": 1},
        )
        assert row.recipe_id is not None

    def test_trouble_is_an_event_of_level_error(self, job: ClaimedJob) -> None:
        job.recorder().trouble("no such cluster")
        (event,) = job.events(EventKind.JOB_PROGRESS)
        assert (event.level, event.message) == ("error", "no such cluster")

    def test_what_has_ended_stays(self, job: ClaimedJob) -> None:
        recorder = job.recorder()
        trial = propose(recorder)
        recorder.completed(trial.id, completed(accuracy=0.75), is_preflight=False)
        with pytest.raises(StateConflict):
            recorder.failed(trial.id, TrialError("nan", "too hot"), device_seconds=0.0)

    def test_preflight_is_the_jobs_too(self, job: ClaimedJob) -> None:
        recorder = job.recorder()
        trial = propose(recorder)
        recorder.completed(trial.id, completed(classes=10), is_preflight=True)
        assert job.row().preflight == {"classes": 10}


@pytest.mark.parametrize(
    "write",
    [
        lambda recorder, trial: recorder.stage_begins(StageName.PROOF, progress={}),
        lambda recorder, trial: recorder.progress({"message": "well"}, tell=False),
        lambda recorder, trial: recorder.trouble("none"),
        lambda recorder, trial: recorder.propose([Proposal(KEY, {})]),
        lambda recorder, trial: recorder.started(trial, node="here"),
        lambda recorder, trial: recorder.report(trial, reported(1)),
        lambda recorder, trial: recorder.stopped_early(
            trial, Stopped(1, 0.1, 0.2, "median"), step=1, device_seconds=0.0
        ),
        lambda recorder, trial: recorder.completed(trial, completed(accuracy=1.0), is_preflight=True),
        lambda recorder, trial: recorder.failed(trial, TrialError("nan", ""), device_seconds=0.0),
        lambda recorder, trial: recorder.succeed(message="", report={}, recipe=RECIPE),
        lambda recorder, trial: recorder.fail(TrialError("nan", "")),
        lambda recorder, trial: recorder.cancel(),
    ],
)
def test_without_its_lease_nothing_is_written(
    job: ClaimedJob, write: Callable[[Recorder, str], None]
) -> None:
    recorder = job.recorder()
    trial = propose(recorder)
    job.lose()
    before = (job.row(), job.trials()[0].state, len(job.events()))
    with pytest.raises(LeaseLost):
        write(recorder, trial.id)
    after = (job.row(), job.trials()[0].state, len(job.events()))
    assert after[1:] == before[1:]
    assert after[0].updated_at == before[0].updated_at
