"""A local job that is interrupted in the middle of a trial goes on from there, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from search.commands.job_file import JobFile
from search.commands.local_job import LocalJob
from search.distill import Report
from search.problems import SearchProblem
from search.records import StageName, TrialKey, TrialRecord
from search.registry import load_everything
from search.spec import JobSpec

SPEC = {
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


def job_in(directory: Path, on_report: Callable[[TrialKey, Report], None] | None = None) -> LocalJob:
    job = LocalJob(JobSpec.model_validate(SPEC), directory, is_kept=True, state_every_seconds=0.0, threads=1)
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
