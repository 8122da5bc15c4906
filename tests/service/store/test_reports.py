"""Reports and the view `metrics`."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from service.store import queue, reports, trials
from service.store.errors import StateConflict
from service.store.leases import Lease
from service.store.reports import NewReport
from service.store.session import Store
from service.store.states import Reason
from service.store.tables import Report, Trial
from tests.service.store.builders import POLICY, claim, propose, running, started


def _row(step: int, *, loss: float = 1.0, is_validation: bool = False) -> NewReport:
    return NewReport(step, step / 10, {"loss": loss}, is_validation)


def _next_attempt(store: Store, lease: Lease, trial: Trial) -> Lease:
    with store.begin_write() as session:
        queue.release(session, lease=lease, reason=Reason.WORKER_STOPPED, policy=POLICY)
    claimed = claim(store)
    assert claimed is not None
    with store.begin_write() as session:
        trials.mark_running(session, lease=claimed.lease, trial_id=trial.id)
    return claimed.lease


def _upsert(store: Store, lease: Lease, trial: Trial, *rows: NewReport) -> None:
    with store.begin_write() as session:
        reports.upsert(session, lease=lease, trial_id=trial.id, rows=rows)


class TestUpsert:
    def test_keeps_figures_exactly(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        figures = {"loss": 0.1 + 0.2, "weight/t0-s1/projection/mse": 5e-324, "accuracy": 1 / 3}
        _upsert(store, lease, trial, NewReport(7, 1 / 7, figures, is_validation=True))
        with store.session() as session:
            (row,) = reports.of_trial(session, trial_id=trial.id)
        assert row.figures == figures
        assert (row.step, row.attempt, row.epoch, row.is_validation) == (7, 1, 1 / 7, True)

    def test_replaces_a_row_of_the_same_attempt_and_step(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        _upsert(store, lease, trial, _row(1), _row(2))
        _upsert(store, lease, trial, _row(2, loss=5.0), _row(3))
        with store.session() as session:
            rows = reports.of_trial(session, trial_id=trial.id)
        assert [(row.step, row.figures["loss"]) for row in rows] == [(1, 1.0), (2, 5.0), (3, 1.0)]

    def test_takes_many_rows_at_once(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        _upsert(store, lease, trial, *(_row(step) for step in range(5000)))
        with store.session() as session:
            assert session.scalar(select(func.count()).select_from(Report)) == 5000
            assert reports.last_step(session, trial_id=trial.id) == 4999

    def test_of_no_rows_still_asks_for_the_lease_and_writes_nothing(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        _upsert(store, lease, trial)
        with store.session() as session:
            assert reports.last_step(session, trial_id=trial.id) is None

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_refuses_figures_that_are_not_finite(self, store: Store, value: float) -> None:
        lease = running(store)
        trial = started(store, lease)
        with pytest.raises(ValueError, match=r"loss is .* at step 2"):
            _upsert(store, lease, trial, _row(1), _row(2, loss=value))
        with store.session() as session:
            assert reports.of_trial(session, trial_id=trial.id) == []

    def test_refuses_a_trial_of_another_job(self, store: Store) -> None:
        other = started(store, running(store))
        lease = running(store)
        with pytest.raises(StateConflict, match="no trial of"):
            _upsert(store, lease, other, _row(1))


class TestMetrics:
    def test_shows_the_newest_attempts_row_of_each_step(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        _upsert(store, lease, trial, *(_row(step, loss=1.0) for step in (1, 2, 3, 4, 5)))
        second = _next_attempt(store, lease, trial)
        _upsert(store, second, trial, *(_row(step, loss=2.0) for step in (4, 5, 6)))
        third = _next_attempt(store, second, trial)
        _upsert(store, third, trial, *(_row(step, loss=3.0) for step in (6, 7)))
        with store.session() as session:
            rows = reports.of_trial(session, trial_id=trial.id)
        assert [(row.step, row.figures["loss"]) for row in rows] == [
            (1, 1.0),
            (2, 1.0),
            (3, 1.0),
            (4, 2.0),
            (5, 2.0),
            (6, 3.0),
            (7, 3.0),
        ]

    @settings(
        max_examples=12,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), max_size=8))
    def test_is_complete_without_doubles_whatever_is_resumed(
        self, store: Store, attempts: list[tuple[int, int]]
    ) -> None:
        """Attempts that each resume some steps before the end, and run for some."""
        lease = running(store)
        trial = started(store, lease)
        newest: dict[int, int] = {}
        for back, count in attempts:
            resume_at = max(len(newest) - back, 0)
            for step in range(resume_at, resume_at + count):
                _upsert(store, lease, trial, _row(step, loss=float(lease.attempt)))
                newest[step] = lease.attempt
            lease = _next_attempt(store, lease, trial)
        with store.session() as session:
            rows = reports.of_trial(session, trial_id=trial.id)
        assert {row.step: row.attempt for row in rows} == newest
        assert [row.step for row in rows] == list(range(len(newest)))
        with store.begin_write() as session:
            queue.finish(session, lease=lease, state="succeeded", reason="completed")

    def test_pages_by_step(self, store: Store) -> None:
        lease = running(store)
        trial = started(store, lease)
        _upsert(store, lease, trial, *(_row(step) for step in range(10)))
        with store.session() as session:
            rows = reports.of_trial(session, trial_id=trial.id, after_step=3, limit=4)
        assert [row.step for row in rows] == [4, 5, 6, 7]

    def test_gives_the_validation_curves_of_a_job(self, store: Store) -> None:
        lease = running(store)
        first, second = started(store, lease, index=0), started(store, lease, index=1)
        with store.begin_write() as session:
            propose(session, lease, index=2)
        _upsert(store, lease, first, *(_row(step, is_validation=step % 2 == 0) for step in range(1, 7)))
        _upsert(store, lease, second, _row(2, is_validation=True))
        other = running(store)
        _upsert(store, other, started(store, other), _row(9, is_validation=True))
        with store.session() as session:
            curves = reports.validations(session, job_id=lease.job_id)
            narrowed = reports.of_trial(session, trial_id=first.id, validations_only=True)
        assert {trial: [row.step for row in rows] for trial, rows in curves.items()} == {
            first.id: [2, 4, 6],
            second.id: [2],
        }
        assert narrowed == curves[first.id]


class TestForgetAfter:
    def test_removes_what_an_earlier_attempt_reported_beyond_the_end(self, store: Store) -> None:
        lease = running(store)
        trial, other = started(store, lease), started(store, lease, index=1)
        _upsert(store, lease, trial, _row(1), _row(2), _row(3))
        _upsert(store, lease, other, _row(3))
        lease = _next_attempt(store, lease, trial)
        _upsert(store, lease, trial, _row(2))
        with store.begin_write() as session:
            reports.forget_after(session, lease=lease, trial_id=trial.id, step=2)
        with store.session() as session:
            kept = reports.of_trial(session, trial_id=trial.id)
            untouched = reports.of_trial(session, trial_id=other.id)
        assert [(row.step, row.attempt) for row in kept] == [(1, 1), (2, 2)]
        assert [row.step for row in untouched] == [3]

    def test_leaves_trials_of_other_jobs_alone(self, store: Store) -> None:
        theirs = running(store)
        trial = started(store, theirs)
        _upsert(store, theirs, trial, _row(3))
        with store.begin_write() as session:
            reports.forget_after(session, lease=running(store), trial_id=trial.id, step=0)
        with store.session() as session:
            assert [row.step for row in reports.of_trial(session, trial_id=trial.id)] == [3]
