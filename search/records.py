"""The words that plan, trials, store and driver exchange. Imports no torch.

A trial is one unit that is scheduled; its key says which part of the job it is. What it does is in its
parameters, what came of it in its result: JSON both, so that SQL can hold them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from search.recipe import Process, RecipeModel, Stage


class StageName(StrEnum):
    """The parts of a job, in this order."""

    TEACHER = "teacher"
    PREFLIGHT = "preflight"
    SEARCH = "search"
    TUNING = "tuning"
    PROOF = "proof"
    EXPORT = "export"


class TrialState(StrEnum):
    """`proposed` and `running` are unfinished; the others are final."""

    PROPOSED = "proposed"
    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED_EARLY = "stopped_early"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the trial will not change any more."""
        return self not in (TrialState.PROPOSED, TrialState.RUNNING)


@dataclass(frozen=True, order=True)
class TrialKey:
    """Which part of the job a trial is; unique inside a job."""

    stage: StageName
    arm: str
    seed: int
    index: int

    def __str__(self) -> str:
        return f"{self.stage}-{self.arm}-{self.seed}-{self.index}"


@dataclass(frozen=True)
class CurvePoint:
    """One validation of a trial."""

    step: int
    epoch: float
    accuracy: float


@dataclass(frozen=True)
class Stopped:
    """Why a trial was stopped early."""

    step: int
    value: float
    threshold: float
    rule: str


@dataclass(frozen=True)
class TrialError:
    """Why a trial failed: a stable code, and a sentence that says what to do."""

    code: str
    message: str


@dataclass(frozen=True)
class TrialRecord:
    """All that the plan may know of a trial."""

    key: TrialKey
    state: TrialState
    parameters: dict[str, Any]
    result: dict[str, Any] | None = None
    curve: tuple[CurvePoint, ...] = ()
    stopped: Stopped | None = None
    error: TrialError | None = None
    device_seconds: float = 0.0


class Learning(RecipeModel):
    """How a search run learns its process."""

    learning_rate: Annotated[float, Field(gt=0)]
    update_every_steps: Annotated[int, Field(gt=0)] = 1
    normalisation: str = "softplus"
    pathway_weight_factor: Annotated[float, Field(gt=0)] = 1.0
    learn_temperatures: bool = True
    tie_temperatures: bool = False
    hypergradient: str = "exact"
    lookahead_steps: Annotated[int, Field(gt=0)] = 1
    at_constant_length: bool = False
    average_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    meta_loss: Literal["cross_entropy", "teacher_logits", "teacher_embeddings"] = "cross_entropy"
    retry_every_updates: Annotated[int, Field(gt=0)] = 10
    meta_batch_size: int | None = None
    record_points: int = 33


class RunParameters(RecipeModel):
    """One training run of a student. Parameters of trials in the stages search, tuning and proof.

    `splits`: `search` trains on train and reads meta and validation; `proof` trains on all three and reads
    test once.
    """

    process: Process
    epochs: Annotated[int, Field(gt=0)]
    splits: Literal["search", "proof"] = "search"
    learn: Learning | None = None
    choices: dict[str, Any] = Field(
        default_factory=dict, description="What the strategy chose, for its own records."
    )
    data_sha256: str | None = Field(
        default=None, description="Of the data that preflight saw: a run on other data fails."
    )


class EmbeddingFigures(RecipeModel):
    """What a model's embeddings of test images are worth beside its training images': shares in [0, 1].

    None where a network's embedding is not found; the first two also where the data has no labels of its own,
    which nothing else of the job has read.
    """

    knn_accuracy: float | None = None
    linear_probe_accuracy: float | None = None
    out_of_distribution_auroc: float | None = None


class WithoutLabels(RecipeModel):
    """Of a run in a job without labels: what it is judged by and, in proof, what is only reported."""

    judged_by: Literal["teacher_agreement", "neighbour_agreement"]
    neighbour_agreement: float | None = None
    student: EmbeddingFigures | None = None
    teacher: EmbeddingFigures | None = None


class RunResult(RecipeModel):
    """Result of a training run: figures on validation (splits `search`) or test (splits `proof`)."""

    accuracy: float
    agreement: float | None = Field(
        default=None, description="Share of images on which student and teacher agree."
    )
    expected_calibration_error: float | None = Field(description="None without labels.")
    loss: float
    images: int = Field(description="Images of the split that was read.")
    steps: int
    seconds: float = Field(description="Of the steps, without computing the teacher's cached outputs.")
    cache_seconds: float = Field(
        default=0.0, description="Computing the teacher's cached outputs, or waiting for who does."
    )
    process: Process = Field(description="As replayed, or as learned: with measured scales.")
    student_sha256: str | None = None
    served_parameters: int | None = Field(
        default=None, description="Values of the student as it is served, with what a loss gave it for good."
    )
    without_labels: WithoutLabels | None = Field(
        default=None, description="Of a job without labels; `accuracy` is then what students are judged by."
    )


class TeacherResult(RecipeModel):
    """Result of the teacher stage. The weights are the trial's file `teacher.safetensors`."""

    accuracy: float | None = Field(description="On validation; None without labels.")
    weights_sha256: str
    cached: bool
    data_sha256: str | None = None


class PreflightResult(RecipeModel):
    """What preflight found and measured; the plan enumerates pathways and predicts costs from it."""

    data_sha256: str
    classes: int
    input_channels: int
    input_size: int
    split_sizes: dict[str, int]
    majority_rate: float | None = Field(description="None without labels, as the next two.")
    floor_accuracy: float | None
    teacher_accuracy: float | None = Field(
        description="On validation; None in a dry run without teacher weights."
    )
    teacher_parameters: int
    student_parameters: int
    teacher_stages: list[Stage]
    student_stages: list[Stage]
    teacher_weights_sha256: str | None
    seconds_per_step: dict[str, float] = Field(
        description="Measured: `student_alone`, `kd`, `pathways` (all of them), `search` (with an update), "
        "where runs read cached teacher outputs with those; `teacher`: computing a batch of them."
    )
    steps_per_epoch: dict[str, int] = Field(description="By splits: `search`, `proof`.")
    start_seconds: float = Field(default=1.0, description="What a trial costs beside its steps.")
    notes: list[str] = Field(default_factory=list)
    cards: dict[str, Any] = Field(
        default_factory=dict,
        description="What the methods that the job may use say of themselves, by kind and name: "
        "`logit_loss/kd`.",
    )


class ExportParameters(RecipeModel):
    """Parameters of the export trial: which proof run won, and the recipe to be written."""

    arm: str
    seed: int
    run: RunParameters
    report: dict[str, Any]


class ExportResult(RecipeModel):
    """The exported student's accuracy (or what the job judges by) on test, measured from the written file,
    and the recipe document."""

    accuracy: float
    recipe: dict[str, Any]


@dataclass(frozen=True)
class Proposal:
    """A trial to be started."""

    key: TrialKey
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Start these trials, in this order, as room allows (at most `spec.search.concurrent_trials` at once)."""

    proposals: tuple[Proposal, ...]


@dataclass(frozen=True)
class Wait:
    """Nothing to start before a running trial ends."""


@dataclass(frozen=True)
class Fail:
    """The job cannot succeed: a status_reason and a sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class Finish:
    """The job is done. `report` is None for a dry run, whose result is the preflight trial's."""

    report: dict[str, Any] | None


Action = Start | Wait | Fail | Finish
