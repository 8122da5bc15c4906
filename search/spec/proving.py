"""How a job proves what it found: arms and seeds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from search.spec.fields import PositiveInt, SpecModel

Arm = Literal[
    "student_alone", "plain_kd", "tuned_kd", "longer_kd", "uniform", "constant", "shuffled", "searched"
]
ARMS: tuple[Arm, ...] = (
    "student_alone",
    "plain_kd",
    "tuned_kd",
    "longer_kd",
    "uniform",
    "constant",
    "shuffled",
    "searched",
)
REQUIRED_ARMS: tuple[Arm, ...] = ("student_alone", "tuned_kd", "searched")


class Proof(SpecModel):
    """Every arm retrains from scratch with the same seeds, and all but longer KD for the same epochs."""

    epochs: PositiveInt | None = Field(default=None, description="By default budget.epochs_per_trial.")
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=2, max_length=100)] = (
        Field(default_factory=lambda: [0, 1, 2, 3, 4], description="One run of every arm per seed.")
    )
    arms: Annotated[list[Arm], Field(min_length=1)] = Field(
        default=list(ARMS), description="student_alone, tuned_kd and searched must be among them."
    )

    @model_validator(mode="after")
    def _sound(self) -> Proof:
        missing = [arm for arm in REQUIRED_ARMS if arm not in self.arms]
        if missing:
            raise ValueError(f"arms must contain {', '.join(missing)}: the verdict compares them")
        for name in ("seeds", "arms"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must not repeat a value")
        return self
