"""Artifacts: the files of a job, as they lie below the artifact root."""

from __future__ import annotations

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from service.store import leases
from service.store.columns import now
from service.store.ids import Prefix, new_id
from service.store.leases import Lease
from service.store.snapshots import every, one_or_none
from service.store.tables import Artifact


def record(
    session: Session, *, lease: Lease, trial_id: str | None, name: str, path: str, bytes: int, sha256: str
) -> Artifact:
    """Record a file that has been written; one of the same trial and name is replaced and keeps its id.

    `path` is relative to the artifact root; `bytes` its size; `trial_id` None means a file of the whole job.
    """
    leases.require(session, lease)
    place = {"path": path, "bytes": bytes, "sha256": sha256}
    same = [Artifact.job_id == lease.job_id, Artifact.trial_id == trial_id, Artifact.name == name]
    found: Artifact | None = one_or_none(
        session,
        update(Artifact)
        .where(*same)
        .values(created_at=now(), **place)
        .returning(Artifact)
        .execution_options(synchronize_session=False),
    )
    if found is not None:
        return found
    new = {"id": new_id(Prefix.ARTIFACT), "job_id": lease.job_id, "trial_id": trial_id, "name": name}
    made: Artifact = one_or_none(session, insert(Artifact).values(**new, **place).returning(Artifact))
    return made


def get(session: Session, *, artifact_id: str) -> Artifact | None:
    """The artifact, or None."""
    artifact: Artifact | None = one_or_none(session, select(Artifact).where(Artifact.id == artifact_id))
    return artifact


def list_for_job(session: Session, *, job_id: str) -> list[Artifact]:
    """All files of the job, in the order in which they were first recorded."""
    return every(session, select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.id))
