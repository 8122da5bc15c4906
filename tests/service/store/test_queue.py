"""The queue: claim, heartbeat, release, expiry, end."""

from __future__ import annotations

import time
from typing import Any

import pytest

from service.store import events, jobs, queue, reports, trials
from service.store.errors import LeaseLost
from service.store.leases import Lease
from service.store.queue import RetryPolicy
from service.store.session import Store
from service.store.states import JobState, Reason, TrialState
from tests.service.store.builders import OFFERS, POLICY, claim, expire, queued, read, reap, running, started


def _kinds(store: Store, job_id: str) -> list[str]:
    with store.session() as session:
        return [event.kind for event in events.page(session, job_id=job_id)]


def _release(
    store: Store, lease: Lease, reason: Reason, *, policy: RetryPolicy = POLICY, **more: Any
) -> None:
    with store.begin_write() as session:
        queue.release(session, lease=lease, reason=reason, policy=policy, **more)


class TestClaim:
    def test_takes_the_oldest_first(self, store: Store) -> None:
        made = [queued(store).id for _ in range(3)]
        claims = [claim(store) for _ in range(4)]
        assert [claimed and claimed.job.id for claimed in claims] == [*made, None]

    def test_sets_the_lease(self, store: Store) -> None:
        queued(store)
        claimed = claim(store, owner="worker-7", lease_seconds=60)
        assert claimed is not None
        job = claimed.job
        assert (job.state, job.lease_owner, job.attempt, job.lease_token) == (
            JobState.RUNNING,
            "worker-7",
            1,
            1,
        )
        assert job.lease_expires_at is not None
        assert job.heartbeat_at is not None
        assert (job.lease_expires_at - job.heartbeat_at).total_seconds() == pytest.approx(60, abs=0.1)
        assert job.started_at is not None
        assert claimed.lease == Lease(job.id, 1, 1)
        assert _kinds(store, job.id) == ["job.queued", "job.claimed"]

    def test_leaves_jobs_whose_requirements_are_not_all_offered(self, store: Store) -> None:
        queued(store, requirements=["dataset:digits", "model:unknown"])
        served = queued(store, requirements=["model:test_resnet", "dataset:digits"])
        claims = [claim(store) for _ in range(2)]
        assert [claimed and claimed.job.id for claimed in claims] == [served.id, None]

    def test_needs_no_offer_for_a_job_without_requirements(self, store: Store) -> None:
        queued(store, requirements=[])
        with store.begin_write() as session:
            assert queue.claim(session, owner="w", lease_seconds=60, offers=[]) is not None

    def test_matches_names_exactly(self, store: Store) -> None:
        queued(store, requirements=['dataset:"quoted"%s\\ ü'])
        with store.begin_write() as session:
            assert (
                queue.claim(session, owner="w", lease_seconds=60, offers=["dataset:quoted", *OFFERS]) is None
            )
            assert (
                queue.claim(session, owner="w", lease_seconds=60, offers=['dataset:"quoted"%s\\ ü'])
                is not None
            )

    def test_leaves_a_job_that_is_not_due(self, store: Store) -> None:
        lease = running(store)
        _release(store, lease, Reason.DRIVER_LOST, policy=RetryPolicy(backoff_seconds=0.3))
        assert claim(store) is None
        time.sleep(0.35)
        claimed = claim(store)
        assert claimed is not None
        assert claimed.lease == Lease(lease.job_id, 2, claimed.job.lease_token)
        assert claimed.lease.token > lease.token

    def test_keeps_the_time_of_the_first_start(self, store: Store) -> None:
        lease = running(store)
        started_at = read(store, lease.job_id).started_at
        _release(store, lease, Reason.DRIVER_LOST)
        time.sleep(0.005)
        claimed = claim(store)
        assert claimed is not None
        assert claimed.job.started_at == started_at


class TestHeartbeat:
    def test_extends_the_lease(self, store: Store) -> None:
        lease = running(store)
        before = read(store, lease.job_id).lease_expires_at
        time.sleep(0.02)
        with store.begin_write() as session:
            renewal = queue.heartbeat(session, lease=lease, lease_seconds=60)
        after = read(store, lease.job_id).lease_expires_at
        assert before is not None
        assert after is not None
        assert after > before
        assert not renewal.cancel_requested

    def test_tells_of_a_requested_cancellation(self, store: Store) -> None:
        lease = running(store)
        with store.begin_write() as session:
            jobs.request_cancel(session, job_id=lease.job_id)
            assert queue.heartbeat(session, lease=lease, lease_seconds=60).cancel_requested
        with store.session() as session:
            assert queue.is_cancel_requested(session, lease=lease)

    def test_does_not_revive_a_lease_that_ran_out(self, store: Store) -> None:
        lease = running(store)
        expire(store, lease)
        with pytest.raises(LeaseLost, match=lease.job_id), store.begin_write() as session:
            queue.heartbeat(session, lease=lease, lease_seconds=60)


class TestExpiry:
    def test_leaves_leases_that_hold(self, store: Store) -> None:
        running(store)
        assert reap(store) == []

    def test_puts_the_job_back_with_the_reason(self, store: Store) -> None:
        lease = running(store)
        expire(store, lease)
        (job,) = reap(store)
        assert (job.state, job.status_reason) == (JobState.QUEUED, "lease_lost")
        assert job.lease_owner is None
        assert _kinds(store, job.id)[-1] == "job.lease_lost"
        claimed = claim(store)
        assert claimed is not None
        assert claimed.job.attempt == 2
        assert claimed.job.status_reason is None

    def test_happens_once(self, store: Store) -> None:
        expire(store, running(store))
        assert len(reap(store)) == 1
        assert reap(store) == []

    def test_of_a_cancelling_job_cancels_it(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        with store.begin_write() as session:
            jobs.request_cancel(session, job_id=lease.job_id)
        expire(store, lease)
        (job,) = reap(store)
        assert (job.state, job.status_reason) == (JobState.CANCELLED, "cancelled_by_user")
        with store.session() as session:
            after = trials.get(session, trial_id=trial.id)
        assert after is not None
        assert after.state is TrialState.CANCELLED

    def test_interrupts_running_trials_and_keeps_ended_ones(self, store: Store) -> None:
        lease = running(store)
        ended, at_work = started(store, lease, index=0), started(store, lease, index=1)
        with store.begin_write() as session:
            trials.finish(
                session, lease=lease, trial_id=ended.id, state="completed", result={"accuracy": 0.5}
            )
        expire(store, lease)
        reap(store)
        with store.session() as session:
            states = {trial.id: trial.state for trial in trials.list_for_job(session, job_id=lease.job_id)}
        assert states == {ended.id: TrialState.COMPLETED, at_work.id: TrialState.PROPOSED}


class TestAttemptBudget:
    def _lose(self, store: Store) -> None:
        claimed = claim(store)
        assert claimed is not None
        expire(store, claimed.lease)
        reap(store)

    def test_ends_the_job_after_too_many_fruitless_attempts(self, store: Store) -> None:
        job = queued(store)
        for expected in ("queued", "queued", "failed"):
            self._lose(store)
            assert read(store, job.id).state == expected
        failed = read(store, job.id)
        assert failed.status_reason == "worker_lost"
        assert "3 attempts" in (failed.status_message or "")
        assert failed.attempt == 3
        assert _kinds(store, job.id)[-2:] == ["job.lease_lost", "job.failed"]
        assert claim(store) is None

    def test_counts_lost_drivers_too(self, store: Store) -> None:
        job = queued(store)
        for _ in range(3):
            claimed = claim(store)
            assert claimed is not None
            _release(store, claimed.lease, Reason.DRIVER_LOST, detail="exit status -9")
        failed = read(store, job.id)
        assert (failed.state, failed.status_reason) == (JobState.FAILED, "worker_lost")
        assert "exit status -9" in (failed.status_message or "")

    def test_starts_anew_after_a_new_report(self, store: Store) -> None:
        job = queued(store)
        for step in range(1, 8):
            claimed = claim(store)
            assert claimed is not None
            trial = started(store, claimed.lease)
            with store.begin_write() as session:
                reports.upsert(
                    session, lease=claimed.lease, trial_id=trial.id, rows=[reports.NewReport(step, 0.0, {})]
                )
            expire(store, claimed.lease)
            reap(store)
            assert read(store, job.id).state is JobState.QUEUED
            assert read(store, job.id).fruitless_attempts == 0

    def test_is_not_fooled_by_steps_that_are_only_repeated(self, store: Store) -> None:
        """A driver that dies at the same step each time, after resuming from a checkpoint, gets nowhere."""
        job = queued(store)
        states = []
        for _ in range(4):
            claimed = claim(store)
            assert claimed is not None
            trial = started(store, claimed.lease)
            rows = [reports.NewReport(step, 0.0, {}) for step in (1, 2, 3)]
            with store.begin_write() as session:
                reports.upsert(session, lease=claimed.lease, trial_id=trial.id, rows=rows)
            expire(store, claimed.lease)
            reap(store)
            states.append(read(store, job.id).state)
        assert states == ["queued", "queued", "queued", "failed"]  # the first one did make progress

    def test_starts_anew_after_a_finished_trial(self, store: Store) -> None:
        job = queued(store)
        self._lose(store)
        claimed = claim(store)
        assert claimed is not None
        assert claimed.job.fruitless_attempts == 2
        trial = started(store, claimed.lease)
        with store.begin_write() as session:
            trials.finish(session, lease=claimed.lease, trial_id=trial.id, state="failed", error_code="nan")
        assert read(store, job.id).fruitless_attempts == 0

    def test_is_not_spent_by_stopped_workers(self, store: Store) -> None:
        job = queued(store)
        for _ in range(6):
            claimed = claim(store)
            assert claimed is not None
            _release(store, claimed.lease, Reason.WORKER_STOPPED, policy=RetryPolicy(3, backoff_seconds=60))
        after = read(store, job.id)
        assert (after.state, after.status_reason) == (JobState.QUEUED, "worker_stopped")
        assert (after.attempt, after.fruitless_attempts) == (6, 0)
        assert claim(store) is not None  # at once, without back-off

    def test_waits_longer_each_time(self) -> None:
        policy = RetryPolicy(backoff_seconds=0.5, max_backoff_seconds=10)
        assert [policy.wait_seconds(fruitless) for fruitless in (0, 1, 2, 3, 4, 5, 6, 10_000)] == [
            0.5,
            0.5,
            1,
            2,
            4,
            8,
            10,
            10,
        ]


class TestRelease:
    def test_of_a_cancelling_job_cancels_it(self, store: Store) -> None:
        lease = running(store)
        with store.begin_write() as session:
            jobs.request_cancel(session, job_id=lease.job_id)
        _release(store, lease, Reason.WORKER_STOPPED)
        assert read(store, lease.job_id).state is JobState.CANCELLED

    @pytest.mark.parametrize(
        ("reason", "kind"),
        [(Reason.DRIVER_LOST, "job.driver_lost"), (Reason.WORKER_STOPPED, "job.released")],
    )
    def test_tells_why(self, store: Store, reason: Reason, kind: str) -> None:
        lease = running(store)
        _release(store, lease, reason)
        assert read(store, lease.job_id).status_reason == reason
        assert _kinds(store, lease.job_id)[-1] == kind


class TestFinish:
    @pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
    def test_ends_the_job(self, store: Store, state: JobState) -> None:
        lease = running(store)
        trial = started(store, lease)
        with store.begin_write() as session:
            queue.finish(
                session, lease=lease, state=state, reason="why", message="In words.", report={"arms": []}
            )
        job = read(store, lease.job_id)
        assert (job.state, job.status_reason, job.status_message) == (state, "why", "In words.")
        assert job.report == {"arms": []}
        assert job.finished_at is not None
        assert job.lease_owner is None
        assert _kinds(store, job.id)[-1] == f"job.{state}"
        with store.session() as session:
            after = trials.get(session, trial_id=trial.id)
            assert queue.has_finished(session, lease=lease)
        assert after is not None
        assert after.state is TrialState.CANCELLED

    @pytest.mark.parametrize("state", ["queued", "running", "paused"])
    def test_refuses_states_that_are_no_end(self, store: Store, state: str) -> None:
        lease = running(store)
        with pytest.raises(ValueError, match="cannot end"), store.begin_write() as session:
            queue.finish(session, lease=lease, state=state, reason="why")

    def test_is_not_claimed_by_who_lost_the_lease(self, store: Store) -> None:
        lease = running(store)
        with store.begin_write() as session:
            jobs.request_cancel(session, job_id=lease.job_id)
        expire(store, lease)
        reap(store)
        with store.session() as session:
            assert not queue.has_finished(session, lease=lease)
