"""What must hold of a job that has succeeded, whatever happened on the way."""

from __future__ import annotations

from pathlib import Path

from search.records import StageName
from service.store.states import TrialState
from service.store.tables import Trial
from tests.end_to_end.installation import Installation
from tests.workers.claimed_job import check_reports, check_runs_once

STEPLESS = (StageName.PREFLIGHT, StageName.EXPORT)


def check_sound(installation: Installation, job_id: str) -> int:
    """No gap, no double, no second run, log and SQL agree. The number of rows of figures."""
    check_runs_once(installation.events(job_id))
    splits = installation.job(job_id).spec["data"]["splits"]
    training = installation.job(job_id).spec["teachers"][0]["training"]

    def steps(trial: Trial) -> int:
        assert trial.state is TrialState.COMPLETED, f"{trial.stage} {trial.arm}: {trial.error_message}"
        assert trial.result is not None
        if trial.stage == StageName.TEACHER:
            per_epoch = splits["train"] // training["batch_size"]
            return 0 if trial.result["cached"] else training["epochs"] * per_epoch
        return 0 if trial.stage in STEPLESS else int(trial.result["steps"])

    root = Path(installation.home / "artifacts")
    return check_reports(installation.store, root, job_id, steps=steps)
