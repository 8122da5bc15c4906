"""A local job that is interrupted in the middle of a trial goes on from there, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from search.commands.job_file import JobFile
from search.commands.local_job import LocalJob, _without_last_failures
from search.distill import Report
from search.models import export_student
from search.plan import teacher_proposal
from search.planning.arms import plain_kd
from search.problems import SearchProblem
from search.records import StageName, TrialKey, TrialRecord, TrialState
from search.registry import load_everything
from search.spec import JobSpec
from tests.search.training.runs import model

SPEC: dict[str, Any] = {
    "teachers": [{"model": "test_resnet", "weights": "untrained"}],
    "student": {"model": "test_efficientnet"},
    "data": {"splits": {"train": 64, "meta": 32, "validation": 32, "test": 50}},
    "training": {"batch_size": 16, "report_every_steps": 1},
    "budget": {"trials": 1, "epochs_per_trial": 2},
    "floor_accuracy": 0.0,
}
load_everything()


class StoppedError(Exception):
    """The end of the process, as far as the job can tell."""


def job_in(
    directory: Path,
    on_report: Callable[[TrialKey, Report], None] | None = None,
    **changes: Any,
) -> LocalJob:
    spec = JobSpec.model_validate({**SPEC, **changes})
    job = LocalJob(spec, directory, is_kept=True, state_every_seconds=0.0, threads=1)
    if on_report is not None:
        job.on_report = on_report
    return job


def found(record: TrialRecord) -> dict[str, Any]:
    """What is the same in every run: all but times."""
    return {name: value for name, value in (record.result or {}).items() if "seconds" not in name}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> LocalJob:
    job = job_in(tmp_path_factory.mktemp("whole"))
    assert job.run(until=StageName.TUNING) is None
    return job


@pytest.mark.parametrize(("arm", "step"), [("searched", 5), ("constant", 6)])
def test_a_stopped_trial_goes_on_to_the_same_bits(
    uninterrupted: LocalJob, tmp_path: Path, arm: str, step: int
) -> None:
    replayed = [record.key.arm for record in uninterrupted.records if record.key.stage is StageName.SEARCH]
    stopped_in = arm if arm in replayed else f"pruned_{arm}"

    def stop(key: TrialKey, report: Report) -> None:
        if key.stage is StageName.SEARCH and key.arm == stopped_in and report.step == step:
            raise StoppedError

    with pytest.raises(StoppedError):
        job_in(tmp_path, stop).run(until=StageName.TUNING)
    torch.manual_seed(999)  # a new process has other generators
    steps: list[int] = []

    def watch(key: TrialKey, report: Report) -> None:
        if key.arm == stopped_in:
            steps.append(report.step)

    again = job_in(tmp_path, watch)
    again.run(until=StageName.TUNING)
    assert steps[0] == step, "it goes on from the state that was kept before"
    assert [record.key for record in again.records] == [record.key for record in uninterrupted.records]
    for one, other in zip(again.records, uninterrupted.records, strict=True):
        assert found(one) == found(other), one.key
        assert one.curve == other.curve
        assert one.device_seconds > 0
    assert not list(tmp_path.glob("trials/*/state.pt"))


def test_a_stopped_second_search_trial_goes_on_as_the_one_that_was_proposed(tmp_path: Path) -> None:
    changes = {"budget": {"trials": 2, "epochs_per_trial": 2}, "search": {"concurrent_trials": 2}}

    def stop(key: TrialKey, report: Report) -> None:
        if (key.stage, key.index, report.step) == (StageName.SEARCH, 1, 3):
            raise StoppedError

    with pytest.raises(StoppedError):
        job_in(tmp_path, stop, **changes).run(until=StageName.TUNING)
    steps: list[int] = []

    def watch(key: TrialKey, report: Report) -> None:
        if (key.arm, key.index) == ("searched", 1):
            steps.append(report.step)

    job_in(tmp_path, watch, **changes).run(until=StageName.TUNING)
    assert steps[0] == 3


def test_what_failed_is_tried_again_once_it_has_been_mended(tmp_path: Path) -> None:
    weights = tmp_path / "teacher.safetensors"
    teachers = [{"model": "test_resnet", "weights": str(weights)}]
    with pytest.raises(SearchProblem, match="no weights file"):
        job_in(tmp_path, teachers=teachers).run()
    export_student(model("test_resnet", seed=1), weights, {})
    again = job_in(tmp_path, teachers=teachers)
    assert again.run(until=StageName.SEARCH) is None
    assert [record.state for record in again.records] == [TrialState.COMPLETED] * 2


def test_failures_of_earlier_stages_stay_as_later_trials_saw_them() -> None:
    def record(stage: StageName, index: int, state: TrialState) -> TrialRecord:
        return TrialRecord(TrialKey(stage, "an_arm", 0, index), state, {})

    done, failed = TrialState.COMPLETED, TrialState.FAILED
    replay, proved = record(StageName.SEARCH, 1, failed), record(StageName.PROOF, 0, done)
    records = [record(StageName.SEARCH, 0, done), replay, proved, record(StageName.PROOF, 1, failed)]
    assert _without_last_failures(records) == records[:3]
    assert _without_last_failures(records[:2]) == records[:1]
    assert _without_last_failures([proved]) == [proved]


@pytest.mark.parametrize(
    ("device", "cpus", "gpus"), [(None, 3.0, 0.0), ("cpu", 3.0, 0.0), ("cuda:1", 1.0, 1.0), ("mps", 1.0, 1.0)]
)
def test_device_seconds_are_those_of_what_the_job_holds(
    tmp_path: Path, device: str | None, cpus: float, gpus: float
) -> None:
    job = job_in(tmp_path)
    job.threads, job.device = 3, device
    assert (job.planned.resources_per_trial.cpus, job.planned.resources_per_trial.gpus) == (cpus, gpus)


def test_memory_that_ran_out_fails_the_trial_and_not_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")

    monkeypatch.setattr("search.commands.local_job.open_trial", no_room)
    job = job_in(tmp_path)
    record = job.trial(teacher_proposal(job.spec))
    assert record.state is TrialState.FAILED
    assert record.error is not None
    assert record.error.code == "oom"
    assert "lower training.batch_size" in record.error.message


def test_an_error_of_ours_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("search.commands.local_job.open_trial", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        job_in(tmp_path).run()


def test_the_plan_sees_trials_one_by_one_on_all_threads(tmp_path: Path) -> None:
    job = job_in(tmp_path, search={"concurrent_trials": 4}, resources_per_trial={"cpus": 2.0})
    job.threads = 3
    assert job.planned.search.concurrent_trials == 1
    assert job.planned.resources_per_trial.cpus == 3.0
    assert job.spec.resources_per_trial.cpus == 2.0


def test_the_file_is_whole_after_every_trial(uninterrupted: LocalJob) -> None:
    kept = JobFile.model_validate_json((uninterrupted.directory / "job.json").read_bytes())
    assert kept.trials() == uninterrupted.records
    assert kept.elapsed_seconds > 0


def test_the_first_difference_between_two_jobs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    JobFile(identity={"a": {"b": 1, "c": 2}, "d": 3}).write(path, [], 0.0)
    assert JobFile.opened(path, {"a": {"b": 1, "c": 2}, "d": 3}).records == []
    with pytest.raises(SearchProblem, match=r"a\.c is 2 there"):
        JobFile.opened(path, {"a": {"b": 1, "c": 4}, "d": 3})


def test_records_of_before_a_field_came_are_the_same_jobs(tmp_path: Path) -> None:
    """Fields that a spec and a process gained since have their defaults; others still tell jobs apart."""
    path = tmp_path / "job.json"
    given = {"process": plain_kd().model_dump(mode="json"), "search_device_seconds": 0.0}
    identity = {"spec": JobSpec.model_validate(SPEC).model_dump(mode="json"), "given": given, "threads": 1}
    before = json.loads(json.dumps(identity))
    del before["spec"]["data"]["labels"], before["spec"]["search"]["space"]["feature_losses"]
    del before["given"]["process"]["taps"]
    JobFile(identity=before).write(path, [], 7.0)
    assert JobFile.opened(path, identity).elapsed_seconds == 7.0
    data = {**SPEC["data"], "labels": "none"}
    other = JobSpec.model_validate({**SPEC, "data": data}).model_dump(mode="json")
    with pytest.raises(SearchProblem, match=r"spec\.data\.labels is 'given' there"):
        JobFile.opened(path, {**identity, "spec": other})
