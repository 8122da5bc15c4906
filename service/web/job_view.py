"""One job as a page shows it: everything that its template needs, read in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from search.label_free import JudgedBy, judged_by
from search.spec import JobSpec
from service.resources import Progress, shown_state
from service.store import artifacts, events, jobs, recipes, reports, trials, workers
from service.store.session import Session
from service.store.states import JobState
from service.store.tables import Artifact, Event, Job, Trial
from service.web.jobs_view import job_title, task_in_words
from service.web.process_view import ProcessView, process_view
from service.web.report_view import ReportView, report_view
from service.web.trials_view import (
    CurvesView,
    StageView,
    TrialView,
    best_search_trial,
    curve_views,
    stage_views,
    trial_title,
    trial_views,
)

RECENT_EVENTS = 30
HELD = {"constant": "its final weights", "averaged": "the mean of its last third"}


@dataclass(frozen=True)
class JobView:
    """All that the page of a job shows."""

    job: Job
    title: str
    task: str
    state: str
    is_live: bool
    is_waiting_for_worker: bool
    last_event: int
    progress: Progress
    stages: list[StageView]
    report: ReportView | None
    process: ProcessView | None
    process_source: str
    curves: list[CurvesView]
    trials: list[TrialView]
    figure: str  # what trials are judged by, in words
    events: list[Event]
    files: list[Artifact]
    preflight: dict[str, Any] | None
    recipe_id: str | None
    spec_json: str
    now: datetime

    @property
    def trials_done(self) -> int:
        """Trials that have ended."""
        return sum(stage.done for stage in self.stages)

    @property
    def trials_total(self) -> int:
        """As the plan foresees; it may have been short of what then had to be done."""
        return max(self.progress.trials_total or 0, len(self.trials))

    @property
    def student(self) -> Artifact | None:
        """The exported student's file."""
        return next((file for file in self.files if file.name == "student.safetensors"), None)


def job_view(session: Session, *, job_id: str, worker_timeout_seconds: float) -> JobView | None:
    """The view of the job, or None when there is no such job."""
    job = jobs.get(session, job_id=job_id)
    if job is None:
        return None
    found = trials.list_for_job(session, job_id=job_id)
    curves = reports.validations(session, job_id=job_id)
    last_event = events.last_sequence(session, job_id=job_id)
    recipe = recipes.for_job(session, job_id=job_id)
    process, source = _process(job, found)
    return JobView(
        job=job,
        title=job_title(job),
        task=task_in_words(job.spec),
        state=shown_state(job),
        is_live=not job.state.is_final,
        is_waiting_for_worker=job.state is JobState.QUEUED
        and not workers.live(session, max_age_seconds=worker_timeout_seconds),
        last_event=last_event,
        progress=Progress.model_validate(job.progress or {}),
        stages=stage_views(job, found),
        report=report_view(job.report),
        process=process,
        process_source=source,
        curves=curve_views(found, curves, figure=_figure(job)),
        trials=trial_views(found, curves),
        figure=_figure(job),
        events=_recent_events(session, job_id, last_event),
        files=_result_files(artifacts.list_for_job(session, job_id=job_id), found),
        preflight=job.preflight,
        recipe_id=recipe.id if recipe is not None else None,
        spec_json=json.dumps(job.spec, indent=2, ensure_ascii=False),
        now=datetime.now(UTC),
    )


def _figure(job: Job) -> str:
    """What the job judges by, in words."""
    if (job.spec.get("data") or {}).get("labels") != "none":
        return JudgedBy.ACCURACY.in_words
    return judged_by(JobSpec.model_validate(job.spec)).in_words


def _process(job: Job, found: Sequence[Trial]) -> tuple[ProcessView | None, str]:
    """The process as it was learned; a recipe that holds its end shows less of it."""
    best = best_search_trial(found)
    if best is not None:
        source = f"as search trial “{trial_title(best)}” learned it"
        held = HELD.get((job.report or {}).get("process_kind", ""))
        if held is not None:
            source += f"; the searched arm holds {held} throughout"
        elif job.report is None:
            source += ", the best so far"
        return process_view((best.result or {}).get("process")), source
    return process_view((job.report or {}).get("process")), "as the searched arm replays it"


def _recent_events(session: Session, job_id: str, last: int) -> list[Event]:
    """The newest events, newest first."""
    after = max(last - RECENT_EVENTS, 0)
    return events.page(session, job_id=job_id, after=after, limit=RECENT_EVENTS)[::-1]


def _result_files(files: Sequence[Artifact], found: Sequence[Trial]) -> list[Artifact]:
    """What the job is for: the files of its export, and of the job as a whole."""
    exports = {trial.id for trial in found if trial.stage == "export"}
    return [file for file in files if file.trial_id is None or file.trial_id in exports]
