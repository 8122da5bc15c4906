"""Whole jobs over HTTP: real API, worker, driver, Ray, torch, data."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from search.records import StageName
from service.store.states import EventKind, JobState, TrialState
from tests.end_to_end.installation import SMALL_JOB, USELESS_TEACHER, Installation, wait_until
from tests.end_to_end.soundness import check_sound


class TestUndisturbed:
    def test_every_step_of_every_trial_is_there_once(self, shared: Installation, finished: str) -> None:
        assert check_sound(shared, finished) > 100

    def test_the_stages_come_in_order(self, shared: Installation, finished: str) -> None:
        told = [event.data["stage"] for event in shared.events(finished) if event.kind == EventKind.JOB_STAGE]
        assert told == [stage.value for stage in StageName]

    def test_a_trial_was_stopped_early_with_step_and_values_in_sql(
        self, shared: Installation, finished: str
    ) -> None:
        stopped = [trial for trial in shared.trials(finished) if trial.state is TrialState.STOPPED_EARLY]
        assert stopped
        for trial in stopped:
            assert trial.stopped is not None
            assert trial.stopped["value"] < trial.stopped["threshold"]
            assert trial.stopped["step"] > 0
            assert trial.stopped["rule"]

    def test_every_trial_says_where_and_how_long_it_ran(self, shared: Installation, finished: str) -> None:
        for trial in shared.trials(finished):
            assert trial.node
            assert trial.device_seconds > 0
            assert trial.started_at is not None

    def test_report_and_recipe_can_be_had(self, shared: Installation, finished: str) -> None:
        report = shared.get(f"/v1/jobs/{finished}/report")
        recipe = shared.get(f"/v1/jobs/{finished}/recipe")
        assert recipe["arm"] == report["verdict"]["arm"]
        assert shared.get(f"/v1/jobs/{finished}")["recipe_id"]

    def test_every_file_is_what_its_checksum_says(self, shared: Installation, finished: str) -> None:
        files = shared.get(f"/v1/jobs/{finished}/artifacts")["data"]
        assert {"teacher.safetensors", "student.safetensors", "recipe.json"} <= {
            file["name"] for file in files
        }
        for file in files:
            content = shared.client.get(f"/v1/jobs/{finished}/artifacts/{file['id']}").content
            assert hashlib.sha256(content).hexdigest() == file["sha256"]

    def test_nothing_of_it_is_left(self, shared: Installation, finished: str) -> None:
        """Neither processes, nor checkpoints, nor scratch."""
        wait_until(lambda: not shared.drivers(), seconds=15, what="the driver's end")
        names = [" ".join(process.cmdline()) for process in shared.processes()]
        assert not [name for name in names if "ray" in name]
        wait_until(
            lambda: not list(shared.ray_directory.iterdir()), seconds=15, what="Ray's last files to go"
        )
        assert not (shared.home / "cache/scratch" / finished).exists()
        assert list((shared.home / "artifacts/jobs" / finished).rglob("checkpoint-*")) == []


def test_a_useless_teacher_is_said_to_be_useless(shared: Installation) -> None:
    job_id = shared.submit(USELESS_TEACHER)
    shared.succeed(job_id, seconds=240)
    verdict = shared.get(f"/v1/jobs/{job_id}/report")["verdict"]
    assert verdict["arm"] == "student_alone"
    assert verdict["sentence"] == shared.get(f"/v1/jobs/{job_id}")["status_message"]


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        (
            {"resources_per_trial": {"cpus": 1.0, "gpus": 1.0}},
            "no_resources",
            "each trial needs 1 GPU, the largest node of the cluster has 0",
        ),
        (
            {"teachers": USELESS_TEACHER["teachers"], "floor_accuracy": 0.99},
            "teacher_check_failed",
            "99",
        ),
    ],
    ids=["more_than_the_cluster_has", "teacher_below_its_floor"],
)
def test_what_cannot_work_is_refused_before_device_time_is_spent(
    shared: Installation, changes: dict[str, Any], reason: str, words: str
) -> None:
    job_id = shared.submit({**SMALL_JOB, **changes})
    job = shared.wait(job_id, seconds=120)
    assert (job.state, job.status_reason) == (JobState.FAILED, reason)
    assert words in (job.status_message or "")
    assert {trial.stage for trial in shared.trials(job_id)} <= {"teacher", "preflight"}
    assert job.progress is not None
    assert job.progress["stage"] == StageName.PREFLIGHT


def test_a_dry_run_tells_what_a_job_would_cost(shared: Installation) -> None:
    job_id = shared.submit(SMALL_JOB, dry_run=True)
    job = shared.succeed(job_id, seconds=120)
    assert [trial.stage for trial in shared.trials(job_id)] == ["preflight"]
    assert job.preflight is not None
    assert job.preflight["seconds_per_step"]["search"] > 0
    assert job.report is None


def test_a_cancelled_job_ends_its_processes(shared: Installation) -> None:
    job_id = shared.submit(SMALL_JOB)
    wait_until(
        lambda: any(trial.state is TrialState.RUNNING for trial in shared.trials(job_id)),
        seconds=60,
        what="a trial",
    )
    assert shared.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    job = shared.wait(job_id, seconds=20)
    assert job.state is JobState.CANCELLED
    assert {trial.state for trial in shared.trials(job_id)} <= {
        TrialState.CANCELLED,
        TrialState.COMPLETED,
        TrialState.STOPPED_EARLY,
    }
    wait_until(lambda: not shared.drivers(), seconds=15, what="the driver's end")
    assert list((shared.home / "artifacts/jobs" / job_id).rglob("checkpoint-*")) == []
