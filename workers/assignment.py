"""What a driver hands to a trial's actor, and what it hears from it: JSON and paths, nothing else.

Neither torch nor ray is imported here: driver, actor and tests share these words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from search.planning.costs import devices_per_trial
from search.records import StageName, TrialKey
from search.spec import JobSpec


class Document(BaseModel):
    """Base of everything that travels between driver and actor."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StoredFile(Document):
    """A file in the artifact root, as it was written."""

    name: str
    path: str = Field(description="Relative to the artifact root.")
    bytes: int
    sha256: str


class Assignment(Document):
    """One trial to be carried out by an actor, under one attempt of its job."""

    job_id: str
    trial_id: str
    attempt: int
    stage: StageName
    arm: str
    seed: int
    index: int
    parameters: dict[str, Any]
    spec: JobSpec
    artifact_root: str
    cache_root: Path = Field(description="Per node: teacher caches, copies of remote files, scratch.")
    datasets_file: Path | None = None
    weights_root: Path | None = None
    teacher_file: StoredFile | None = None
    student_file: StoredFile | None = None
    checkpoint_seconds: float = 30.0

    @property
    def key(self) -> TrialKey:
        """Which part of the job the trial is."""
        return TrialKey(stage=self.stage, arm=self.arm, seed=self.seed, index=self.index)

    @property
    def directory(self) -> str:
        """The trial's own directory, relative to the artifact root."""
        return directory_of(self.job_id, self.trial_id)

    @property
    def threads(self) -> int:
        """Torch threads: the whole cores that are reserved, at least one."""
        return max(1, int(self.spec.resources_per_trial.cpus))

    @property
    def devices(self) -> float:
        """What a wall second is multiplied by: reserved GPUs, or CPU cores where there is no GPU."""
        return devices_per_trial(self.spec)


def directory_of(job_id: str, trial_id: str) -> str:
    """A trial's directory, relative to the artifact root."""
    return f"jobs/{job_id}/{trial_id}"


class Started(Document):
    """The actor has taken the trial on. Nothing has been computed yet."""

    kind: Literal["started"] = "started"
    node: str
    process_id: int
    step: int = Field(description="Of the checkpoint from which it goes on; 0 from the beginning.")


class Reported(Document):
    """A row of figures; it is in the trial's own log, fsynced, when this is sent."""

    kind: Literal["reported"] = "reported"
    step: int
    epoch: float
    figures: dict[str, float]
    is_validation: bool
    device_seconds: float


class Alive(Document):
    """Nothing to report yet, but the trial is at work: lets the driver stop it between two reports."""

    kind: Literal["alive"] = "alive"
    device_seconds: float


class Completed(Document):
    """The trial is done; its files are in the artifact root."""

    kind: Literal["completed"] = "completed"
    result: dict[str, JsonValue]
    files: list[StoredFile]
    device_seconds: float


class Failed(Document):
    """The trial cannot go on: a stable code and a sentence. The actor itself is well."""

    kind: Literal["failed"] = "failed"
    code: str
    message: str
    device_seconds: float


Message = Annotated[Started | Reported | Alive | Completed | Failed, Field(discriminator="kind")]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


def is_last(message: Message) -> bool:
    """Whether the actor has nothing more to say about this trial."""
    return isinstance(message, Completed | Failed)
