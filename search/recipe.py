"""The recipe schema: a process, how to replay it, its evidence and its provenance. Imports no torch.

A *process* says what every loss weighs, and how hot it is, at every moment of training. All arms are
processes: the student alone has no losses but cross-entropy, plain KD has one logit loss held at one point.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from search.spec import JobSpec, Training

RECIPE_VERSION: Literal[1] = 1
MAX_PATHWAYS = 4096
MAX_META_PARAMETERS = 4096
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Temperature = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]


class RecipeModel(BaseModel):
    """Base of every part of a recipe: no unknown fields, no non-finite numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def with_settings(name: str, config: Mapping[str, JsonValue]) -> str:
    """A method's name with the settings that were said: `rkd(angle_weight=1.0)`."""
    settings = ", ".join(f"{setting}={value}" for setting, value in sorted(config.items()))
    return f"{name}({settings})" if settings else name


class Stage(RecipeModel):
    """One stage of a model: where feature maps are tapped."""

    index: Annotated[int, Field(ge=0)]
    channels: Annotated[int, Field(gt=0)]
    reduction: Annotated[float, Field(gt=0)] = Field(
        description="Side of the data's images over the side of the stage's map."
    )
    depth: float = Field(ge=0, le=1, description="Relative depth: 0 the first stage, 1 the last.")


class Pathway(RecipeModel):
    """One feature-distillation loss: teacher stage -> student stage through a transform, by a distance."""

    teacher: Annotated[int, Field(ge=0)] = Field(default=0, description="Which of the task's teachers.")
    teacher_stage: Annotated[int, Field(ge=0)] = Field(description="Index of the teacher's stage.")
    student_stage: Annotated[int, Field(ge=0)] = Field(description="Index of the student's stage.")
    transform: str = Field(
        description="What fits the student's map to the teacher's, and with + the operators that both maps "
        "then go through: `projection+channel_attention+max_pool2`."
    )
    distance: str = Field(description="Between the transformed map and the teacher's.")
    transform_config: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="The transform's settings, and those of operators as OPERATOR.SETTING; what is not said "
        "is its default.",
    )
    distance_config: dict[str, JsonValue] = Field(
        default_factory=dict, description="The distance's settings; what is not said is its default."
    )
    scale: float | None = Field(
        default=None,
        description="The loss's value at the search's first step; a replay measures its own (floor 1e-8).",
    )
    parameters: Annotated[list[float], Field(max_length=MAX_META_PARAMETERS)] | None = Field(
        default=None,
        description="What the transform learned from the meta loss, held in a replay; null: its own start.",
    )

    @property
    def name(self) -> str:
        """A short readable name, unique inside a process."""
        of = f"{self.teacher}:" if self.teacher else ""
        return f"{of}t{self.teacher_stage}-s{self.student_stage}/{self.transform_name}/{self.distance_name}"

    @property
    def transform_name(self) -> str:
        """Transform and operators, with their settings."""
        return with_settings(self.transform, self.transform_config)

    @property
    def distance_name(self) -> str:
        """The distance, with its settings."""
        return with_settings(self.distance, self.distance_config)


class FeatureLoss(RecipeModel):
    """A whole method on maps, embeddings and more, which chooses its stages itself; weighed as a pathway."""

    loss: str = Field(description="A registered feature loss.")
    teacher: Annotated[int, Field(ge=0)] = Field(default=0, description="Which of the task's teachers.")
    config: dict[str, JsonValue] = Field(
        default_factory=dict, description="The loss's settings; what is not said is its default."
    )
    scale: float | None = Field(default=None, description="As of a pathway.")

    @property
    def name(self) -> str:
        """A short readable name, unique inside a process."""
        of = f"{self.teacher}:" if self.teacher else ""
        return of + with_settings(self.loss, self.config)


def _feature_kind(value: object) -> str:
    is_whole = "loss" in value if isinstance(value, dict) else isinstance(value, FeatureLoss)
    return "<feature loss>" if is_whole else "<pathway>"


AnyPathway = Annotated[
    Annotated[Pathway, Tag("<pathway>")] | Annotated[FeatureLoss, Tag("<feature loss>")],
    Discriminator(_feature_kind),
]
"""What a weight of `Point.pathway_weights` belongs to."""


class TemperatureRule(RecipeModel):
    """What gives a logit loss its temperatures."""

    name: str = Field(description="A registered temperature rule.")
    config: dict[str, JsonValue] = Field(
        default_factory=dict, description="The rule's settings; what is not said is its default."
    )


class LogitLoss(RecipeModel):
    """A loss on both models' logits."""

    name: str = Field(default="kd", description="A registered logit loss.")
    teacher: Annotated[int, Field(ge=0)] = Field(default=0, description="Which of the task's teachers.")
    config: dict[str, JsonValue] = Field(
        default_factory=dict, description="The loss's settings; what is not said is its default."
    )
    temperature_rule: TemperatureRule | None = Field(
        default=None,
        description="null: the temperatures are as recorded. A rule that makes its own makes them again in a "
        "replay; points then hold what it made in the search.",
    )


class Point(RecipeModel):
    """The process at one moment of training."""

    progress: Annotated[float, Field(ge=0, le=1)]
    cross_entropy_weight: Weight | None = Field(
        default=None, description="Where it changes over training; null: the process's own."
    )
    logit_weights: list[Weight] = Field(default_factory=list)
    pathway_weights: list[Weight] = Field(default_factory=list)
    teacher_temperatures: list[Temperature] = Field(default_factory=list, description="One per logit loss.")
    student_temperatures: list[Temperature] = Field(default_factory=list, description="One per logit loss.")


class Process(RecipeModel):
    """Weights of all losses and the temperatures over training; one point means constant."""

    cross_entropy_weight: Weight = 1.0
    logit_losses: list[LogitLoss] = Field(default_factory=list)
    pathways: list[AnyPathway] = Field(default_factory=list, max_length=MAX_PATHWAYS)
    unit_scaled: bool = Field(default=True, description="Pathway losses are divided by their first value.")
    taps: Literal["output", "pre_activation"] = Field(
        default="output", description="Where stages are tapped; `pre_activation` where a model has it."
    )
    skip_below: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0, description="A pathway is not computed while its weight is below; all are at step 0."
    )
    points: Annotated[list[Point], Field(min_length=1, max_length=100_000)]

    @model_validator(mode="after")
    def _consistent(self) -> Process:
        progress = [point.progress for point in self.points]
        if progress != sorted(set(progress)):
            raise ValueError("points must be in strictly increasing order of progress")
        names = [pathway.name for pathway in self.pathways]
        if len(set(names)) != len(names):
            raise ValueError(
                "no two pathways may have the same stages, transform and distance with the same settings, "
                "and no two feature losses the same settings"
            )
        for point in self.points:
            expected = (len(self.logit_losses),) * 3 + (len(self.pathways),)
            found = tuple(
                len(values)
                for values in (
                    point.logit_weights,
                    point.teacher_temperatures,
                    point.student_temperatures,
                    point.pathway_weights,
                )
            )
            if found != expected:
                raise ValueError(
                    f"the point at {point.progress} has {found} values, expected {expected} "
                    "(logit weights, teacher and student temperatures, pathway weights)"
                )
        return self

    @property
    def is_constant(self) -> bool:
        """Whether the weights stay the same over training."""
        return len(self.points) == 1


class TaskModel(RecipeModel):
    """A model of the task, as it was."""

    model: str
    parameters: Annotated[int, Field(ge=0)]
    stages: list[Stage]
    weights_sha256: str | None = None


class Task(RecipeModel):
    """What was distilled."""

    teachers: list[TaskModel]
    student: TaskModel
    data: str
    data_sha256: str
    classes: int
    input_channels: int
    input_size: int
    split_sizes: dict[str, int]


class Provenance(RecipeModel):
    """Where a recipe comes from, and what exact repetition needs."""

    job_id: str | None = None
    created_at: str
    versions: dict[str, str]
    device: str
    threads: int
    search_seed: int
    proof_seeds: list[int]


class Recipe(RecipeModel):
    """The portable result of a job."""

    schema_version: Literal[1] = RECIPE_VERSION
    arm: str = Field(description="The winning arm, which the process repeats.")
    task: Task
    process: Process
    epochs: Annotated[int, Field(gt=0)]
    training: Training
    spec: JobSpec = Field(description="What was asked for, without name, labels and metadata.")
    served_parameters: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Values of the student as it is served: its own parameters, and with `simkd` and `atsc` "
        "those of the projector and the teacher's classifier.",
    )
    evidence: dict[str, JsonValue] = Field(
        description="The job's report: arms, differences, verdict; from `search.find`, its trials and judged "
        "candidates."
    )
    provenance: Provenance

    @model_validator(mode="after")
    def _teachers_exist(self) -> Recipe:
        asked = [loss.teacher for loss in self.process.logit_losses]
        asked += [pathway.teacher for pathway in self.process.pathways]
        if asked and max(asked) >= len(self.task.teachers):
            raise ValueError(f"a loss names teacher {max(asked)}, but there are {len(self.task.teachers)}")
        return self

    def to_json(self) -> str:
        """The document as text; keys in schema order, no NaN."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"


def constant(
    *,
    cross_entropy_weight: float = 1.0,
    logit_loss: str | None = None,
    logit_weight: float = 1.0,
    temperature: float = 4.0,
) -> Process:
    """A process without pathways whose weights never change: the student alone, or fixed KD."""
    losses = [LogitLoss(name=logit_loss)] if logit_loss else []
    return Process(
        cross_entropy_weight=cross_entropy_weight,
        logit_losses=losses,
        points=[
            Point(
                progress=0.0,
                logit_weights=[logit_weight] * len(losses),
                teacher_temperatures=[temperature] * len(losses),
                student_temperatures=[temperature] * len(losses),
            )
        ],
    )
