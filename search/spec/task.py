"""The task: teachers, student, data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from search.spec.fields import Name, PositiveFloat, PositiveInt, SpecModel


class TeacherTraining(SpecModel):
    """How a teacher without weights is trained, on the train split only."""

    epochs: PositiveInt = Field(default=20, description="Epochs over the train split.")
    learning_rate: PositiveFloat = Field(
        default=2e-3, description="Peak learning rate of AdamW, OneCycle schedule."
    )
    batch_size: PositiveInt = Field(default=64, description="Images per step.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=0, description="Seed of weights and data order."
    )


class Teacher(SpecModel):
    """A teacher model: a timm name, and where its weights come from."""

    model: Name = Field(description="Name of a timm model.")
    weights: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        default="train",
        description="`train` (as part of the job, cached by content), `pretrained` (timm's own weights), "
        "`untrained` (random; for controls), or a safetensors / torch file inside the weights root.",
    )
    training: TeacherTraining = Field(
        default_factory=TeacherTraining, description="Used when weights is `train`."
    )


class Student(SpecModel):
    """The model to be trained. A space of several students is reserved."""

    model: Name | None = Field(default=None, description="Name of a timm model.")
    space: list[Name] | None = Field(default=None, description="Reserved: several students to choose from.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Student:
        if self.space is not None:
            raise ValueError(
                "a space of students is not supported yet; give `model`, the name of one timm model"
            )
        if self.model is None:
            raise ValueError("give `model`, the name of a timm model")
        return self

    @property
    def name(self) -> str:
        """The model's name; the validator has made sure that there is one."""
        assert self.model is not None
        return self.model


class Splits(SpecModel):
    """Sizes of the seeded splits, in images; None leaves the data set's own default.

    `meta` is taken from the training images; so are `validation` and `test` where the data set has no such
    part of its own. `train` limits the rest.
    """

    train: PositiveInt | None = None
    meta: PositiveInt | None = None
    validation: PositiveInt | None = None
    test: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Data(SpecModel):
    """The data set, by name."""

    name: Name = Field(default="digits", description="A name from GET /v1/datasets.")
    splits: Splits = Field(default_factory=Splits)
    input_size: Annotated[int, Field(ge=8, le=1024)] | None = Field(
        default=None, description="Side of the square input in pixels; by default the data's own size."
    )
    labels: Literal["given", "none"] = Field(
        default="given",
        description="`none`: no label is read in training, search, selection or proof; the teacher needs "
        "weights of its own (docs/label-free.md).",
    )
    out_of_distribution: Name | None = Field(
        default=None,
        description="Of a job without labels: the data set whose test images are to be told from these; by "
        "default this one's test images with their pixels shuffled.",
    )
    unlabelled: Name | None = Field(default=None, description="Reserved: a data set of unlabelled images.")

    @property
    def is_labelled(self) -> bool:
        """Whether the job may read the images' labels."""
        return self.labels == "given"

    @model_validator(mode="after")
    def _is_told_apart(self) -> Data:
        if self.out_of_distribution is not None and self.is_labelled:
            raise ValueError(
                "out_of_distribution is for jobs without labels; leave it out, or set labels to none"
            )
        return self

    @field_validator("unlabelled")
    @classmethod
    def _unlabelled_later(cls, value: str | None) -> str | None:
        if value is not None:
            raise ValueError("unlabelled data is not supported yet; leave it out")
        return value
