"""No writer writes without its lease; all that take one are found by looking, so none is forgotten."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

import service.store
from service.store import jobs, queue, reports
from service.store.errors import LeaseLost
from service.store.leases import Lease
from service.store.reports import NewReport
from service.store.session import Store
from service.store.states import JobState, Reason
from service.store.tables import Base, Trial
from service.store.trials import NewTrial
from tests.service.store.builders import POLICY, claim, expire, reap, running, started

# What each writer is called with, beside session and lease; `trial` is a running trial of the job.
ARGUMENTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "artifacts.record": lambda trial: {
        "trial_id": trial,
        "name": "student",
        "path": "jobs/x",
        "bytes": 1,
        "sha256": "0" * 64,
    },
    "events.report": lambda trial: {"kind": "job.progress", "message": "half-way"},
    "queue.finish": lambda trial: {"state": JobState.SUCCEEDED, "reason": "completed"},
    "queue.heartbeat": lambda trial: {"lease_seconds": 60.0},
    "queue.record_preflight": lambda trial: {"preflight": {"classes": 10}},
    "queue.release": lambda trial: {"reason": Reason.DRIVER_LOST, "policy": POLICY},
    "queue.update_progress": lambda trial: {"progress": {"stage": "proof"}},
    "recipes.record": lambda trial: {
        "document": {},
        "schema_version": 1,
        "arm": "searched",
        "teacher": "t",
        "student": "s",
        "data": "digits",
    },
    "reports.forget_after": lambda trial: {"trial_id": trial, "step": 0},
    "reports.upsert": lambda trial: {"trial_id": trial, "rows": [NewReport(1, 0.1, {"loss": 1.0})]},
    "trials.finish": lambda trial: {"trial_id": trial, "state": "completed"},
    "trials.insert_proposals": lambda trial: {"proposals": [NewTrial("proof", "searched", 1, 0)]},
    "trials.mark_running": lambda trial: {"trial_id": trial},
}
READERS = {"queue.is_cancel_requested", "queue.has_finished", "leases.require", "leases.held", "leases.lost"}


def _takers_of_a_lease() -> dict[str, Callable[..., Any]]:
    found = {}
    for info in pkgutil.iter_modules(service.store.__path__):
        module = importlib.import_module(f"service.store.{info.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                parameters = inspect.signature(function, eval_str=True).parameters.values()
                if any(parameter.annotation is Lease for parameter in parameters):
                    found[f"{info.name}.{name}"] = function
    return found


TAKERS = _takers_of_a_lease()


def _everything(store: Store) -> dict[str, list[Any]]:
    with store.session() as session:
        return {
            name: sorted(map(tuple, session.execute(select(table)).all()), key=repr)
            for name, table in Base.metadata.tables.items()
        }


def _expired(store: Store, lease: Lease) -> Lease:
    expire(store, lease)
    return lease


def _queued_again(store: Store, lease: Lease) -> Lease:
    expire(store, lease)
    reap(store)
    return lease


def _claimed_by_another(store: Store, lease: Lease) -> Lease:
    _queued_again(store, lease)
    assert claim(store, owner="another") is not None
    return lease


def _cancelled_after_expiry(store: Store, lease: Lease) -> Lease:
    with store.begin_write() as session:
        jobs.request_cancel(session, job_id=lease.job_id)
    return _queued_again(store, lease)


def _finished(store: Store, lease: Lease) -> Lease:
    with store.begin_write() as session:
        queue.finish(session, lease=lease, state=JobState.FAILED, reason="teacher_check_failed")
    return lease


def _of_an_older_attempt(store: Store, lease: Lease) -> Lease:
    return Lease(lease.job_id, lease.attempt - 1, lease.token)


def _with_a_wrong_token(store: Store, lease: Lease) -> Lease:
    return Lease(lease.job_id, lease.attempt, lease.token + 1)


def _of_an_unknown_job(store: Store, lease: Lease) -> Lease:
    return Lease("job_unknown", lease.attempt, lease.token)


LOSSES = [
    _expired,
    _queued_again,
    _claimed_by_another,
    _cancelled_after_expiry,
    _finished,
    _of_an_older_attempt,
    _with_a_wrong_token,
    _of_an_unknown_job,
]


def test_every_function_that_takes_a_lease_is_known_here() -> None:
    """A new writer needs an entry in ARGUMENTS; then it is tested like the others."""
    assert set(TAKERS) == set(ARGUMENTS) | READERS


def _reporting(store: Store, lease: Lease) -> Trial:
    """A running trial with a row of figures."""
    trial = started(store, lease)
    with store.begin_write() as session:
        reports.upsert(session, lease=lease, trial_id=trial.id, rows=[NewReport(5, 0.5, {"loss": 1.0})])
    return trial


@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__.strip("_"))
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_a_writer_without_its_lease_writes_nothing(
    store: Store, name: str, lose: Callable[[Store, Lease], Lease]
) -> None:
    held = running(store)
    trial = _reporting(store, held)
    lease = lose(store, held)
    before = _everything(store)
    with pytest.raises(LeaseLost), store.begin_write() as session:
        TAKERS[name](session, lease=lease, **ARGUMENTS[name](trial.id))
    assert _everything(store) == before


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_the_same_writer_with_its_lease_writes(store: Store, name: str) -> None:
    lease = running(store)
    trial = _reporting(store, lease)
    before = _everything(store)
    with store.begin_write() as session:
        TAKERS[name](session, lease=lease, **ARGUMENTS[name](trial.id))
    assert _everything(store) != before
