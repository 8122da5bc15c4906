"""What all parts of the spec are made of: strict models without unknown fields, bounded types."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@+-]*$")]
PositiveInt = Annotated[int, Field(gt=0, le=10**12)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False)]
Label = Annotated[str, Field(max_length=200)]
NameSet = Annotated[list[Name], Field(min_length=1, max_length=16)]


class SpecModel(BaseModel):
    """Base of every part of the spec: strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Range(SpecModel):
    """A continuous range to be searched."""

    low: PositiveFloat
    high: PositiveFloat
    log: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low <= self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high})")
        return self
