"""How a job proves what it found: arms and seeds."""

from __future__ import annotations

from collections.abc import Collection
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
NEEDING_LABELS: tuple[Arm, ...] = ("student_alone",)
"""The arms that there are not in a job without labels."""


class Proof(SpecModel):
    """Every arm retrains from scratch with the same seeds, and all but longer KD for the same epochs."""

    epochs: PositiveInt | None = Field(default=None, description="By default budget.epochs_per_trial.")
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=2, max_length=100)] = (
        Field(default_factory=lambda: [0, 1, 2, 3, 4], description="One run of every arm per seed.")
    )
    arms: Annotated[list[Arm], Field(min_length=1)] = Field(
        default=list(ARMS),
        description="student_alone, tuned_kd and searched must be among them; without labels there is no "
        "student_alone.",
    )

    @model_validator(mode="after")
    def _sound(self) -> Proof:
        for name in ("seeds", "arms"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must not repeat a value")
        return self

    def fitting(self, *, is_labelled: bool) -> Proof:
        """The proof of a job with or without labels. Raises ValueError where its arms do not fit.

        The default arms become those that there are.
        """
        known = [arm for arm in ARMS if is_labelled or arm not in NEEDING_LABELS]
        if "arms" not in self.model_fields_set:
            return self if is_labelled else self.model_copy(update={"arms": known})
        if unknown := [arm for arm in self.arms if arm not in known]:
            named = ", ".join(unknown)
            raise ValueError(f"there is no {named} without labels; leave {named} out of proof.arms")
        missing = [arm for arm in REQUIRED_ARMS if arm in known and arm not in self.arms]
        if missing:
            raise ValueError(f"arms must contain {', '.join(missing)}: the verdict compares them")
        return self


def arms_with(arms: Collection[Arm], *, is_labelled: bool) -> list[Arm]:
    """The arms of a job with labels, or without, that otherwise is one with these: without the arms that it
    cannot have, and with those that it must."""
    known = [arm for arm in ARMS if is_labelled or arm not in NEEDING_LABELS]
    return [arm for arm in known if arm in arms or arm in REQUIRED_ARMS]
