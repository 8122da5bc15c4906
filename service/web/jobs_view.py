"""The list of jobs as a page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from service.resources import shown_state
from service.store import jobs, summaries, workers
from service.store.session import Session
from service.store.states import JobState
from service.store.summaries import TrialSummary
from service.store.tables import Job
from service.web.report_view import recommended_arm

PAGE_JOBS = 25


@dataclass(frozen=True)
class JobRow:
    """One job in the list."""

    id: str
    name: str
    state: str
    reason: str | None
    task: str
    dry_run: bool
    trials_done: int
    trials_total: int | None
    stage: str | None
    best_accuracy: float | None
    verdict: str | None
    created_at: datetime


@dataclass(frozen=True)
class JobsView:
    """A page of the list. `counts` has every state, `newest` says whether this is its first page."""

    rows: list[JobRow]
    state: JobState | None
    counts: dict[JobState, int]
    newest: bool
    older_after: str | None
    live_workers: int
    now: datetime

    @property
    def total(self) -> int:
        """Jobs in all states."""
        return sum(self.counts.values())

    @property
    def is_waiting_for_worker(self) -> bool:
        """Whether jobs are queued that nobody will take."""
        return self.live_workers == 0 and self.counts[JobState.QUEUED] > 0


def jobs_view(
    session: Session, *, state: JobState | None, after: str | None, worker_timeout_seconds: float
) -> JobsView:
    """The page of jobs after that id, newest first, in that state or in any."""
    page = jobs.list_page(session, states=None if state is None else [state], after=after, limit=PAGE_JOBS)
    of_trials = summaries.of_trials(session, job_ids=[job.id for job in page.rows])
    counts = jobs.count_by_state(session)
    return JobsView(
        rows=[_row(job, of_trials.get(job.id, TrialSummary())) for job in page.rows],
        state=state,
        counts={known: counts.get(known, 0) for known in JobState},
        newest=after is None,
        older_after=page.rows[-1].id if page.has_more else None,
        live_workers=len(workers.live(session, max_age_seconds=worker_timeout_seconds)),
        now=datetime.now(UTC),
    )


def _row(job: Job, trials: TrialSummary) -> JobRow:
    progress = job.progress or {}
    return JobRow(
        id=job.id,
        name=job_title(job),
        state=shown_state(job),
        reason=job.status_reason if job.state is not JobState.SUCCEEDED else None,
        task=task_in_words(job.spec),
        dry_run=job.dry_run,
        trials_done=trials.done,
        # The plan's forecast may be short of what it then had to do.
        trials_total=max(progress.get("trials_total") or 0, trials.known) or None,
        stage=progress.get("stage") if job.state is JobState.RUNNING else None,
        best_accuracy=trials.best_accuracy,
        verdict=recommended_arm(job.report) if job.report else None,
        created_at=job.created_at,
    )


def job_title(job: Job) -> str:
    """Its name; its task where it has none."""
    return job.name or task_in_words(job.spec)


def task_in_words(spec: dict[str, Any]) -> str:
    """Teacher, student and data in a line."""
    teachers = " + ".join(str(teacher.get("model")) for teacher in spec.get("teachers", []))
    student = (spec.get("student") or {}).get("model")
    return f"{teachers} → {student} on {(spec.get('data') or {}).get('name')}"
