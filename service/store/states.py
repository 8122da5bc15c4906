"""The states of jobs and trials, and the codes that say why."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """`queued -> running -> succeeded | failed | cancelled`; `queued | running -> paused -> queued`.

    `cancelling` is no state: it is shown while a running job has `cancel_requested_at`.
    """

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job will not change any more."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class TrialState(StrEnum):
    """The words of `search.records.TrialState`; a test holds the two together."""

    PROPOSED = "proposed"
    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED_EARLY = "stopped_early"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the trial will not change any more."""
        return self not in (TrialState.PROPOSED, TrialState.RUNNING)


class Reason(StrEnum):
    """Values of `status_reason` that the store itself gives; drivers add the codes of their own failures."""

    LEASE_LOST = "lease_lost"
    DRIVER_LOST = "driver_lost"
    WORKER_STOPPED = "worker_stopped"
    WORKER_LOST = "worker_lost"
    CANCELLED = "cancelled_by_user"


class Level(StrEnum):
    """How much an event matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class EventKind(StrEnum):
    """Kinds of events. Those with * are recorded by the store, together with the change they tell of."""

    JOB_QUEUED = "job.queued"  # * a new job
    JOB_CLAIMED = "job.claimed"  # * an attempt begins
    JOB_STAGE = "job.stage"
    JOB_PROGRESS = "job.progress"
    JOB_LEASE_LOST = "job.lease_lost"  # * back in the queue: the worker was silent
    JOB_DRIVER_LOST = "job.driver_lost"  # * back in the queue: the driver died under a living worker
    JOB_RELEASED = "job.released"  # * back in the queue: the worker was stopped
    JOB_CANCEL_REQUESTED = "job.cancel_requested"  # *
    JOB_SUCCEEDED = "job.succeeded"  # *
    JOB_FAILED = "job.failed"  # *
    JOB_CANCELLED = "job.cancelled"  # *
    TRIAL_STARTED = "trial.started"  # *
    TRIAL_FINISHED = "trial.finished"  # *
    TRIAL_STOPPED_EARLY = "trial.stopped_early"  # *
    TRIAL_FAILED = "trial.failed"  # *


class Scope(StrEnum):
    """What an API key allows; `admin` includes the others, `submit` includes `read`."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"
