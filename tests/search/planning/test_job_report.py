"""What a report says of costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search.planning.history import History
from search.planning.job_report import report_of
from search.records import StageName, TrialRecord
from tests.search.planning.simulated_job import SimulatedJob, make_spec

CACHING_SECONDS, CPUS = 7.0, 3.0


def finished_job() -> SimulatedJob:
    job = SimulatedJob(make_spec(resources_per_trial={"cpus": CPUS}))
    job.run_to(StageName.EXPORT)
    return job


def first_caches(job: SimulatedJob, stage: StageName) -> list[TrialRecord]:
    """The job's records, had the first trial of a stage computed the teacher's outputs for all."""
    records = list(job.records.values())
    place = next(i for i, trial in enumerate(records) if trial.key.stage is stage and trial.result)
    trial = records[place]
    records[place] = replace(
        trial,
        device_seconds=trial.device_seconds + CACHING_SECONDS * CPUS,
        result={**(trial.result or {}), "cache_seconds": CACHING_SECONDS},
    )
    return records


def costs_of(arms: list[dict[str, Any]]) -> dict[str, float]:
    parts = ("training_device_seconds", "search_device_seconds")
    return {f"{arm['arm']} {part}": arm[part] for arm in arms for part in parts}


@pytest.mark.parametrize("stage", [StageName.SEARCH, StageName.TUNING, StageName.PROOF])
def test_no_arm_pays_for_the_teachers_cache(stage: StageName) -> None:
    job = finished_job()
    plain, _ = report_of(job.spec, History(job.records.values()))
    cached, _ = report_of(job.spec, History(first_caches(job, stage)))
    assert costs_of(cached["arms"]) == pytest.approx(costs_of(plain["arms"]))
    assert cached["device_seconds"] == pytest.approx(
        plain["device_seconds"]
        | {
            "teacher_cache": CACHING_SECONDS * CPUS,
            "total": plain["device_seconds"]["total"] + CACHING_SECONDS * CPUS,
        }
    )


def test_the_total_is_what_all_trials_took() -> None:
    job = finished_job()
    records = first_caches(job, StageName.SEARCH)
    report, _ = report_of(job.spec, History(records))
    assert report["device_seconds"]["total"] == pytest.approx(
        sum(trial.device_seconds for trial in records if trial.key.stage is not StageName.EXPORT)
    )
