"""Settings of API, workers and drivers: environment variables with the prefix `LIMBECK_`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


def _below_home(name: str) -> Any:
    return lambda data: data["home"] / name


class Settings(BaseSettings):
    """All settings, read once per process; the fields' descriptions are the documentation."""

    model_config = SettingsConfigDict(env_prefix="LIMBECK_", extra="ignore", frozen=True)

    home: Path = Field(
        default_factory=lambda: Path.home() / ".limbeck",
        description="Where the embedded defaults keep everything.",
    )
    database_url: str = Field(
        default_factory=lambda data: f"sqlite:///{data['home'] / 'limbeck.sqlite'}",
        repr=False,
        description="`sqlite:///file` (one host) or `postgresql://user:password@host/name`.",
    )
    artifact_root: str = Field(
        default_factory=lambda data: str(data["home"] / "artifacts"),
        description="A directory that all nodes share, or an fsspec URL.",
    )
    cache_root: Path = Field(
        default_factory=_below_home("cache"), description="Per node: teachers and their outputs."
    )
    weights_root: Path = Field(
        default_factory=_below_home("weights"), description="Weights files named in specs."
    )
    datasets_file: Path = Field(
        default_factory=_below_home("datasets.toml"), description="The data sets by name."
    )

    host: str = Field(
        default="127.0.0.1", description="Address the API binds to; beyond loopback it needs keys."
    )
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        default=8300, description="Port of the API; 0 takes any."
    )
    body_limit_bytes: Annotated[int, Field(gt=0)] = Field(
        default=1_000_000, description="Largest request body."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    lease_seconds: Seconds = Field(
        default=60.0, description="A worker that is silent for so long loses its job."
    )
    heartbeat_seconds: Seconds = Field(
        default=15.0, description="A worker renews its lease every so many seconds."
    )
    backoff_seconds: Seconds = Field(
        default=1.0, description="First wait before a lost job is tried again; doubles."
    )
    max_backoff_seconds: Seconds = Field(
        default=60.0, description="Longest wait before a lost job is tried again."
    )
    poll_seconds: Seconds = Field(default=1.0, description="An idle worker looks for a job so often.")
    max_fruitless_attempts: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=5, description="Attempts in a row without progress after which a job has failed."
    )
    cancel_grace_seconds: Seconds = Field(
        default=10.0, description="A cancelled driver has so long to end, then as long again after SIGTERM."
    )
    stop_grace_seconds: Seconds = Field(
        default=5.0, description="The driver of a worker that is stopped has so long to end after SIGTERM."
    )
    worker_timeout_seconds: Seconds = Field(
        default=90.0, description="A worker that is silent for so long no longer counts for the catalogue."
    )
    checkpoint_seconds: Seconds = Field(
        default=30.0, description="A trial saves its state at least so often."
    )

    ray_address: str | None = Field(
        default=None, description="A Ray cluster to join; by default a local one."
    )
    ray_temp_dir: Path = Field(
        default_factory=lambda: Path(f"/tmp/lmb-{os.getuid()}"),
        description="Ray's session files; short, because its socket names are limited to 107 bytes.",
    )
    cpus: Annotated[float, Field(gt=0)] | None = Field(default=None, description="CPU cores of a local Ray.")
    gpus: Annotated[float, Field(ge=0)] | None = Field(default=None, description="GPUs of a local Ray.")

    @model_validator(mode="after")
    def _renewed_in_time(self) -> Settings:
        if self.heartbeat_seconds > self.lease_seconds / 3:
            raise ValueError(
                f"heartbeat_seconds ({self.heartbeat_seconds:g}) must be at most a third of lease_seconds "
                f"({self.lease_seconds:g}): without renewal a driver ends itself after two thirds of it"
            )
        return self
