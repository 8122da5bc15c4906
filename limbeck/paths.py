"""Paths of the API below /v1. Ids come from users, so they are quoted."""

from __future__ import annotations

from urllib.parse import quote


def job_path(job_id: str) -> str:
    """Path of a job."""
    return f"/jobs/{quote(job_id, safe='')}"


def trial_path(trial_id: str) -> str:
    """Path of a trial."""
    return f"/trials/{quote(trial_id, safe='')}"


def artifact_path(job_id: str, artifact_id: str) -> str:
    """Path of the content of a job's file."""
    return f"{job_path(job_id)}/artifacts/{quote(artifact_id, safe='')}"
