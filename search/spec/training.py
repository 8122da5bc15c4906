"""How a student is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from search.spec.fields import Name, PositiveFloat, PositiveInt, SpecModel


class Training(SpecModel):
    """How a student is trained. All arms of a job share it."""

    batch_size: PositiveInt = Field(default=64, description="Images per step.")
    accumulate_parts: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="Each step's batch is taken in so many parts, one after the other."
    )
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: PositiveFloat = Field(default=3e-3, description="Peak learning rate.")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="SGD's momentum.")
    nesterov: bool = Field(default=True, description="SGD's Nesterov momentum.")
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        default=1e-2, description="Of weights; biases and norms are not decayed."
    )
    schedule: Literal["onecycle", "cosine", "multistep", "constant"] = Field(
        default="onecycle", description="Of the learning rate, over the whole run."
    )
    warmup_epochs: Annotated[float, Field(ge=0, le=1e5)] = Field(
        default=0.0, description="Linear warm-up before any schedule but `onecycle`, which has its own."
    )
    milestones: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1, max_length=16)] = (
        Field(default=[0.625, 0.75, 0.875], description="Of `multistep`: parts of the run.")
    )
    decay_rate: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.1, description="At each milestone.")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="An average of the weights with this decay is evaluated and exported."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="Of the networks; weights and losses stay in float32."
    )
    channels_last: bool = Field(default=False, description="Memory format: mostly faster for CNNs.")
    torch_compile: bool = Field(default=False, description="Compile the student's training forward pass.")
    augmentation: Name = Field(
        default="shift",
        description="`none`; `shift`: random shifts; `crop_flip`: random crop and horizontal flip; "
        "GET /v1/methods lists all.",
    )
    mixup_alpha: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0, description="Above 0: pairs of images are blended (the teacher's cache is bypassed)."
    )
    cutmix_alpha: Annotated[float, Field(ge=0, le=100)] = Field(
        default=0.0, description="Above 0: a box of one image is put into another."
    )
    views: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=8, description="Different augmented versions of one image; epoch e uses view e mod views."
    )
    report_every_steps: PositiveInt = Field(default=10, description="A row of figures every so many steps.")
    validate_every_epochs: PositiveInt = Field(
        default=1, description="Validated, checkpointed and perhaps stopped every so many epochs."
    )

    @model_validator(mode="after")
    def _divisible(self) -> Training:
        if self.batch_size % self.accumulate_parts:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of accumulate_parts "
                f"({self.accumulate_parts})"
            )
        return self
