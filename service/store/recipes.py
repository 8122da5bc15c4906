"""Recipes: the library."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from service.store import leases
from service.store.ids import Prefix, new_id
from service.store.leases import Lease
from service.store.snapshots import Page, one_or_none, page
from service.store.tables import Recipe


def record(
    session: Session,
    *,
    lease: Lease,
    document: dict[str, Any],
    schema_version: int,
    arm: str,
    teacher: str,
    student: str,
    data: str,
) -> Recipe:
    """Store the job's recipe; a job has one, and storing it again replaces it and keeps its id."""
    leases.require(session, lease)
    values = {
        "document": document,
        "schema_version": schema_version,
        "arm": arm,
        "teacher": teacher,
        "student": student,
        "data": data,
    }
    found: Recipe | None = one_or_none(
        session,
        update(Recipe)
        .where(Recipe.job_id == lease.job_id)
        .values(**values)
        .returning(Recipe)
        .execution_options(synchronize_session=False),
    )
    if found is not None:
        return found
    new = {"id": new_id(Prefix.RECIPE), "job_id": lease.job_id}
    made: Recipe = one_or_none(session, insert(Recipe).values(**new, **values).returning(Recipe))
    return made


def get(session: Session, *, recipe_id: str) -> Recipe | None:
    """The recipe, or None."""
    recipe: Recipe | None = one_or_none(session, select(Recipe).where(Recipe.id == recipe_id))
    return recipe


def for_job(session: Session, *, job_id: str) -> Recipe | None:
    """The job's recipe, or None."""
    recipe: Recipe | None = one_or_none(session, select(Recipe).where(Recipe.job_id == job_id))
    return recipe


def list_page(session: Session, *, after: str | None = None, limit: int = 20) -> Page[Recipe]:
    """Recipes, newest first; `after` is the id of the last one seen."""
    statement = select(Recipe).order_by(Recipe.id.desc())
    if after is not None:
        statement = statement.where(Recipe.id < after)
    return page(session, statement, limit=limit)
