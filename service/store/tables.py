"""The tables. What queries return are detached snapshots: changing one changes nothing in the database."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.store.columns import Json, UtcDateTime, now
from service.store.states import JobState, TrialState

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
E_ = TypeVar("E_", bound=StrEnum)
JsonObject = dict[str, Any]


def _enum(states: type[E_], name: str) -> Enum:
    return Enum(
        states,
        native_enum=False,
        create_constraint=True,
        length=20,
        name=name,
        values_callable=lambda kinds: [kind.value for kind in kinds],
    )


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        str: Text(),
        JsonObject: Json,
        list[str]: Json,
    }


class ApiKey(Base):
    """An API key: only its hash is kept."""

    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(String(20))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(default=now())
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class Job(Base):
    """A submitted search. `lease_*` say which worker holds it; `lease_token` grows when that changes."""

    __tablename__ = "job"
    __table_args__ = (
        Index(None, "state", "created_at"),
        Index(None, "state", "lease_expires_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str | None]
    state: Mapped[JobState] = mapped_column(_enum(JobState, "state"))
    status_reason: Mapped[str | None]
    status_message: Mapped[str | None]
    spec: Mapped[JsonObject]
    requirements: Mapped[list[str]]
    dry_run: Mapped[bool]
    attempt: Mapped[int] = mapped_column(default=0)
    fruitless_attempts: Mapped[int] = mapped_column(default=0)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("job.id", ondelete="SET NULL"), index=True)
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_key.id", ondelete="SET NULL"))
    labels: Mapped[JsonObject]
    metadata_: Mapped[JsonObject] = mapped_column("metadata")
    created_at: Mapped[datetime] = mapped_column(default=now())
    updated_at: Mapped[datetime] = mapped_column(default=now(), onupdate=now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    run_after: Mapped[datetime] = mapped_column(default=now())
    lease_owner: Mapped[str | None]
    lease_token: Mapped[int] = mapped_column(default=0)
    lease_expires_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    event_sequence: Mapped[int] = mapped_column(default=0)
    progress: Mapped[JsonObject | None] = mapped_column(Json)
    preflight: Mapped[JsonObject | None] = mapped_column(Json)
    report: Mapped[JsonObject | None] = mapped_column(Json)
    # No foreign key: recipe.job_id points the other way, and the recipe is written in the same transaction.
    recipe_id: Mapped[str | None] = mapped_column(String(40))


class Trial(Base):
    """One training run of a job. `attempt` is the job's attempt under which it last started; 0 before."""

    __tablename__ = "trial"
    __table_args__ = (UniqueConstraint("job_id", "stage", "arm", "seed", "index"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"))
    stage: Mapped[str] = mapped_column(String(20))
    arm: Mapped[str] = mapped_column(String(40))
    seed: Mapped[int] = mapped_column(BigInteger)
    index: Mapped[int]
    state: Mapped[TrialState] = mapped_column(_enum(TrialState, "state"))
    parameters: Mapped[JsonObject]
    result: Mapped[JsonObject | None] = mapped_column(Json)
    attempt: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    device_seconds: Mapped[float] = mapped_column(Float(53), default=0.0)
    stopped: Mapped[JsonObject | None] = mapped_column(Json)
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    node: Mapped[str | None]


class Report(Base):
    """One row of figures of a trial. The view `metrics` shows the newest attempt's row of each step."""

    __tablename__ = "report"
    # Curves are read whole, and only a few reports in a hundred are validations.
    __table_args__ = (
        Index(
            "ix_report_validations",
            "trial_id",
            "step",
            sqlite_where=text("is_validation"),
            postgresql_where=text("is_validation"),
        ),
    )

    trial_id: Mapped[str] = mapped_column(ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    epoch: Mapped[float] = mapped_column(Float(53))
    figures: Mapped[JsonObject]
    is_validation: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(default=now())


class Event(Base):
    """Something that happened to a job; `sequence` counts 1, 2, 3, ... inside the job, without gaps."""

    __tablename__ = "event"

    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=now())
    kind: Mapped[str] = mapped_column(String(40))
    level: Mapped[str] = mapped_column(String(20))
    message: Mapped[str]
    data: Mapped[JsonObject]


class Artifact(Base):
    """A file of a job, relative to the artifact root."""

    __tablename__ = "artifact"
    __table_args__ = (UniqueConstraint("trial_id", "name"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), index=True)
    trial_id: Mapped[str | None] = mapped_column(ForeignKey("trial.id", ondelete="CASCADE"))
    name: Mapped[str]
    path: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=now())


class Recipe(Base):
    """A stored recipe; `teacher`, `student` and `data` repeat the document's names for searching."""

    __tablename__ = "recipe"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("job.id", ondelete="SET NULL"), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now())
    document: Mapped[JsonObject]
    schema_version: Mapped[int]
    arm: Mapped[str]
    teacher: Mapped[str]
    student: Mapped[str]
    data: Mapped[str]


class Worker(Base):
    """A worker process and the catalogue it published. `id` is a UUID per process start, no host name."""

    __tablename__ = "worker"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    started_at: Mapped[datetime] = mapped_column(default=now())
    heartbeat_at: Mapped[datetime] = mapped_column(default=now())
    stopped_at: Mapped[datetime | None]
    host: Mapped[str]
    pid: Mapped[int]
    catalogue: Mapped[JsonObject]


class IdempotencyKey(Base):
    """A request that must act once. `status` is null while it is in flight."""

    __tablename__ = "idempotency_key"

    key: Mapped[str] = mapped_column(primary_key=True)
    principal: Mapped[str] = mapped_column(primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int | None]
    response: Mapped[JsonObject | None] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(default=now(), index=True)


# A view is no table to Alembic: its own MetaData keeps it out of the comparison; the migration creates it.
metrics = Table(
    "metrics",
    MetaData(),
    Column("trial_id", String(40)),
    Column("step", BigInteger),
    Column("attempt", Integer),
    Column("epoch", Float(53)),
    Column("figures", Json),
    Column("is_validation", Boolean),
    Column("created_at", UtcDateTime()),
)
