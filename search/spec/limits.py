"""What a job may spend, where it runs, what it aims at, and what it may take from earlier jobs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from search.spec.fields import PositiveFloat, PositiveInt, SpecModel


class Budget(SpecModel):
    """Limits of a job. When one is spent the search stops and the job goes to proof with the best so far."""

    trials: Annotated[int, Field(ge=1, le=100_000)] = Field(default=8, description="Search trials at most.")
    epochs_per_trial: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=20, description="Of search, tuning and (unless proof.epochs says otherwise) proof."
    )
    device_seconds: PositiveFloat | None = Field(
        default=None, description="Wall seconds times reserved GPUs (CPU cores where there is no GPU)."
    )
    wall_seconds: PositiveFloat | None = Field(default=None, description="Of the whole job, by the clock.")


class Resources(SpecModel):
    """What Ray reserves for each trial."""

    cpus: Annotated[float, Field(gt=0, le=10_000)] = Field(default=1.0, description="CPU cores.")
    gpus: Annotated[float, Field(ge=0, le=1_000)] = Field(
        default=0.0,
        description="GPUs; half a GPU lets two trials share one. A trial on several is not supported yet.",
    )
    memory_bytes: PositiveInt | None = Field(default=None, description="Main memory.")


class Objective(SpecModel):
    """What is maximised. Limits on parameters, MACs and latency are reserved."""

    maximise: Literal["accuracy"] = "accuracy"
    max_parameters: PositiveInt | None = None
    max_macs: PositiveInt | None = None
    max_latency_milliseconds: PositiveFloat | None = None

    @model_validator(mode="after")
    def _limits_later(self) -> Objective:
        for name in ("max_parameters", "max_macs", "max_latency_milliseconds"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is not supported yet; leave it out")
        return self


class Transfer(SpecModel):
    """Whether a stored recipe is used, and how. In a spec its `source` alone may stand for it."""

    source: Annotated[str, Field(max_length=100)] = Field(
        default="off", description="`off`; reserved: `auto`, or a recipe's id."
    )
    mode: Literal["auto", "reuse", "warm_start"] = Field(
        default="auto",
        description="Reserved: `reuse` goes straight to proof, `warm_start` shortens the search.",
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("source")
    @classmethod
    def _later(cls, value: str) -> str:
        if value != "off":
            raise ValueError("transfer is not supported yet; use `off`")
        return value
