"""The whole spec of a job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from search.spec.fields import Label, SpecModel
from search.spec.limits import Budget, Objective, Resources, Transfer
from search.spec.proving import Proof
from search.spec.searching import Search, Tuning
from search.spec.task import Data, Student, Teacher
from search.spec.training import Training

SPEC_VERSION: Literal[1] = 1


class JobSpec(SpecModel):
    """One job: a task (teachers, student, data), how to search, how to prove, and the budget."""

    spec_version: Literal[1] = SPEC_VERSION
    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    teachers: Annotated[list[Teacher], Field(min_length=1)]
    student: Student
    data: Data = Field(default_factory=Data)
    training: Training = Field(default_factory=Training)
    search: Search = Field(default_factory=Search)
    tuning: Tuning = Field(default_factory=Tuning)
    proof: Proof = Field(default_factory=Proof, validate_default=True)
    budget: Budget = Field(default_factory=Budget)
    resources_per_trial: Resources = Field(default_factory=Resources)
    objective: Objective = Field(default_factory=Objective)
    floor_accuracy: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="Teacher's least validation accuracy; by default 1.5 times the majority-class rate. Not "
        "asked without labels.",
    )
    transfer: Transfer = Field(
        default_factory=lambda: Transfer(),
        description="Reserved: `off`, `auto` or a recipe id will do for it.",
    )
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=64)
    metadata: dict[Label, JsonValue] = Field(default_factory=dict, max_length=64)

    @field_validator("teachers")
    @classmethod
    def _one_teacher_for_now(cls, value: list[Teacher]) -> list[Teacher]:
        if len(value) > 1:
            raise ValueError("several teachers are not supported yet; give one")
        return value

    @field_validator("data")
    @classmethod
    def _teacher_needs_no_labels(cls, value: Data, info: ValidationInfo) -> Data:
        teachers: list[Teacher] = info.data.get("teachers", [])
        if not value.is_labelled and any(teacher.weights == "train" for teacher in teachers):
            raise ValueError(
                "a teacher that the job trains needs labels, and labels is `none`; give teachers.0.weights a "
                "weights file or `pretrained`"
            )
        return value

    @field_validator("search")
    @classmethod
    def _meta_loss_has_labels(cls, value: Search, info: ValidationInfo) -> Search:
        data: Data | None = info.data.get("data")
        if data is not None and not data.is_labelled and value.process.meta_loss == "cross_entropy":
            raise ValueError(
                "process.meta_loss is `cross_entropy`, but data.labels is `none`; use `auto`, "
                "`teacher_logits` or `teacher_embeddings`"
            )
        return value

    @field_validator("proof")
    @classmethod
    def _arms_fit_labels(cls, value: Proof, info: ValidationInfo) -> Proof:
        data: Data | None = info.data.get("data")
        return value if data is None else value.fitting(is_labelled=data.is_labelled)

    @property
    def teacher(self) -> Teacher:
        """The first (for now the only) teacher."""
        return self.teachers[0]

    @property
    def proof_epochs(self) -> int:
        """Epochs of every proof run but longer KD's."""
        return self.proof.epochs or self.budget.epochs_per_trial
