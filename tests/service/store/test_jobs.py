"""Jobs as users see them."""

from __future__ import annotations

import time

import pytest

from service.store import events, jobs, queue, trials
from service.store.jobs import CancelOutcome
from service.store.session import Store
from service.store.states import JobState, TrialState
from tests.service.store.builders import claim, queued, read, running, started


def _kinds(store: Store, job_id: str) -> list[str]:
    with store.session() as session:
        return [event.kind for event in events.page(session, job_id=job_id)]


class TestInsert:
    def test_queues_the_job_as_given(self, store: Store) -> None:
        job = queued(
            store,
            name="first",
            dry_run=True,
            labels={"team": "größe"},
            metadata={"deep": {"list": [1, None]}},
        )
        job = read(store, job.id)
        assert (job.state, job.name, job.dry_run, job.attempt) == (JobState.QUEUED, "first", True, 0)
        assert (job.labels, job.metadata_) == ({"team": "größe"}, {"deep": {"list": [1, None]}})
        assert job.created_at.utcoffset() is not None
        assert _kinds(store, job.id) == ["job.queued"]

    def test_is_part_of_the_callers_transaction(self, store: Store) -> None:
        def insert_and_fail() -> None:
            with store.begin_write() as session:
                jobs.insert_queued(session, new=jobs.NewJob(spec={}, requirements=[]))
                raise RuntimeError("on purpose")

        with pytest.raises(RuntimeError, match="on purpose"):
            insert_and_fail()
        assert claim(store) is None


class TestListPage:
    def test_shows_newest_first_and_pages_without_gaps(self, store: Store) -> None:
        made = [queued(store).id for _ in range(7)]
        seen: list[str] = []
        after = None
        while True:
            with store.session() as session:
                page = jobs.list_page(session, after=after, limit=3)
            seen += [job.id for job in page.rows]
            if not page.has_more:
                break
            after = seen[-1]
        assert seen == made[::-1]

    def test_has_no_more_after_exactly_a_full_page(self, store: Store) -> None:
        for _ in range(3):
            queued(store)
        with store.session() as session:
            assert not jobs.list_page(session, limit=3).has_more

    def test_filters_by_state(self, store: Store) -> None:
        lease = running(store)
        waiting = queued(store)
        with store.session() as session:
            in_queue = jobs.list_page(session, states=[JobState.QUEUED]).rows
            at_work = jobs.list_page(session, states=[JobState.RUNNING, JobState.FAILED]).rows
        assert [job.id for job in in_queue] == [waiting.id]
        assert [job.id for job in at_work] == [lease.job_id]

    def test_filters_by_labels_that_must_all_agree(self, store: Store) -> None:
        odd = {'key "with.dots" and %s': "välue'", "team": "a"}
        wanted = queued(store, labels=odd)
        queued(store, labels={"team": "a"})
        queued(store, labels={"team": "b"})
        with store.session() as session:
            assert [job.id for job in jobs.list_page(session, labels=odd).rows] == [wanted.id]
            assert len(jobs.list_page(session, labels={"team": "a"}).rows) == 2
            assert jobs.list_page(session, labels={"team": "välue'"}).rows == []

    def test_filters_by_requested_cancellation(self, store: Store) -> None:
        lease = running(store)
        with store.begin_write() as session:
            jobs.request_cancel(session, job_id=lease.job_id)
        running(store)
        with store.session() as session:
            cancelling = jobs.list_page(session, states=[JobState.RUNNING], cancel_requested=True).rows
        assert [job.id for job in cancelling] == [lease.job_id]


class TestRequestCancel:
    def _cancel(self, store: Store, job_id: str) -> jobs.Cancellation | None:
        with store.begin_write() as session:
            return jobs.request_cancel(session, job_id=job_id)

    def test_ends_a_queued_job_at_once(self, store: Store) -> None:
        job = queued(store)
        cancellation = self._cancel(store, job.id)
        assert cancellation is not None
        assert cancellation.outcome is CancelOutcome.CANCELLED
        assert cancellation.job.state is JobState.CANCELLED
        assert cancellation.job.status_reason == "cancelled_by_user"
        assert cancellation.job.finished_at is not None
        assert claim(store) is None
        assert _kinds(store, job.id) == ["job.queued", "job.cancelled"]

    def test_ends_a_paused_job_at_once(self, store: Store) -> None:
        job = queued(store)
        with store.begin_write() as session:
            jobs.change(session, job_id=job.id, state=JobState.PAUSED)
        cancellation = self._cancel(store, job.id)
        assert cancellation is not None
        assert cancellation.outcome is CancelOutcome.CANCELLED

    def test_only_asks_a_running_one_and_asks_once(self, store: Store) -> None:
        lease = running(store)
        outcomes = [self._cancel(store, lease.job_id) for _ in range(2)]
        assert [outcome and outcome.outcome for outcome in outcomes] == ["requested", "requested_before"]
        job = read(store, lease.job_id)
        assert job.state is JobState.RUNNING
        assert job.cancel_requested_at is not None
        assert _kinds(store, job.id).count("job.cancel_requested") == 1

    def test_changes_nothing_of_an_ended_job(self, store: Store) -> None:
        lease = running(store)
        with store.begin_write() as session:
            queue.finish(session, lease=lease, state=JobState.SUCCEEDED, reason="completed")
        cancellation = self._cancel(store, lease.job_id)
        assert cancellation is not None
        assert cancellation.outcome is CancelOutcome.ENDED_BEFORE
        assert read(store, lease.job_id).state is JobState.SUCCEEDED
        assert read(store, lease.job_id).cancel_requested_at is None

    def test_of_an_unknown_job_says_so(self, store: Store) -> None:
        assert self._cancel(store, "job_unknown") is None

    def test_of_a_job_that_waits_for_its_next_attempt_cancels_its_trials(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        with store.begin_write() as session:
            queue.release(
                session,
                lease=lease,
                reason=queue.Reason.DRIVER_LOST,
                policy=queue.RetryPolicy(backoff_seconds=60),
            )
        self._cancel(store, lease.job_id)
        with store.session() as session:
            after = trials.get(session, trial_id=trial.id)
        assert after is not None
        assert after.state is TrialState.CANCELLED


class TestCounts:
    def test_by_state(self, store: Store) -> None:
        running(store)
        queued(store)
        queued(store)
        with store.session() as session:
            assert jobs.count_by_state(session) == {JobState.RUNNING: 1, JobState.QUEUED: 2}

    def test_age_of_the_queue(self, store: Store) -> None:
        with store.session() as session:
            assert jobs.oldest_queued_seconds(session) is None
        queued(store)
        with store.session() as session:
            age = jobs.oldest_queued_seconds(session)
        assert age is not None
        assert 0 <= age < 5


class TestElapsedSeconds:
    def test_counts_from_the_first_claim_by_the_databases_clock(self, store: Store) -> None:
        job = queued(store)
        with store.session() as session:
            assert jobs.elapsed_seconds(session, job_id=job.id) == 0.0
        assert claim(store) is not None
        time.sleep(0.05)
        with store.session() as session:
            elapsed = jobs.elapsed_seconds(session, job_id=job.id)
        assert 0.04 < elapsed < 30.0
