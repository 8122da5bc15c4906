"""Short ways to the rows that the store's tests start from."""

from __future__ import annotations

from typing import Any

from service.store import jobs, queue, trials
from service.store.leases import Lease
from service.store.queue import Claimed, RetryPolicy
from service.store.session import Session, Store
from service.store.tables import Job, Trial

OFFERS = frozenset({"dataset:digits", "model:test_resnet"})
POLICY = RetryPolicy(max_fruitless_attempts=3, backoff_seconds=0.0, max_backoff_seconds=0.0)


def queued(store: Store, **fields: Any) -> Job:
    """A new job in the queue."""
    with store.begin_write() as session:
        return jobs.insert_queued(
            session, new=jobs.NewJob(spec={"name": "test"}, **{"requirements": ["dataset:digits"], **fields})
        )


def claim(store: Store, *, owner: str = "worker", lease_seconds: float = 60.0) -> Claimed | None:
    """Claim the next job, if any."""
    with store.begin_write() as session:
        return queue.claim(session, owner=owner, lease_seconds=lease_seconds, offers=OFFERS)


def running(store: Store, **fields: Any) -> Lease:
    """The lease of a new job that is running."""
    job = queued(store, **fields)
    claimed = claim(store)
    assert claimed is not None
    assert claimed.job.id == job.id
    return claimed.lease


def read(store: Store, job_id: str) -> Job:
    """The job as it is now."""
    with store.session() as session:
        job = jobs.get(session, job_id=job_id)
    assert job is not None
    return job


def propose(session: Session, lease: Lease, *, index: int = 0, stage: str = "search") -> Trial:
    """A new trial of the job."""
    new = trials.NewTrial(stage=stage, arm="searched", seed=0, index=index, parameters={"epochs": 2})
    (trial,) = trials.insert_proposals(session, lease=lease, proposals=[new])
    return trial


def started(store: Store, lease: Lease, *, index: int = 0) -> Trial:
    """A running trial of the job."""
    with store.begin_write() as session:
        trial = propose(session, lease, index=index)
        return trials.mark_running(session, lease=lease, trial_id=trial.id, node="node-1")


def expire(store: Store, lease: Lease) -> None:
    """Let the lease run out now, as if its owner had been silent."""
    with store.begin_write() as session:
        queue.heartbeat(session, lease=lease, lease_seconds=-0.001)


def reap(store: Store, *, policy: RetryPolicy = POLICY) -> list[Job]:
    """Take back all jobs whose lease has run out."""
    with store.begin_write() as session:
        return queue.expire_leases(session, policy=policy)
