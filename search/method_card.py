"""What a method says of itself: what it needs, what it trains, where its formula comes from. No torch.

A card is data. The loop taps what the methods of a run need, preflight and the API refuse what cannot work,
and the catalogue and the page of methods are written from cards alone (docs/adr/0006).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

LEAST_BATCH = 8
"""Of methods that compare the images of a batch with each other: fewer say too little of the data."""
NAMES = "names"
"""In the schema of a setting that names another method: of which kind it is."""


class Need(StrEnum):
    """What a method has to be given beside the student's own outputs."""

    TEACHER_LOGITS = "teacher_logits"
    STAGE_MAPS = "stage_maps"
    EMBEDDING = "embedding"
    CLASSIFIER = "classifier"
    LABELS = "labels"
    INDICES = "indices"
    VIEWS = "views"
    SECOND_TEACHER = "second_teacher"  # one that the job names beside the first
    UNLABELLED = "unlabelled"
    TEACHER_TAIL = "teacher_tail"
    TEACHER_AGAIN = "teacher_again"  # another pass of it in every step
    TRAINABLE_TEACHER = "trainable_teacher"


class Evidence(StrEnum):
    """How sure we are of a formula: what it was read in."""

    PUBLISHED = "the paper or its released code"
    MEMORY = "memory of the paper"
    OUR_READING = "our reading of the abstract"


class Owned(StrEnum):
    """What a method takes for itself: no two methods of a process may own the same."""

    STUDENT_LOGITS = "student_logits"
    LAST_MAP = "last_map"


class MethodConfig(BaseModel):
    """Base of a method's settings: flat, with defaults, no unknown fields; those of `searched` have a
    range."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def searched(
    default: float,
    *,
    low: float,
    high: float,
    description: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
) -> Any:
    """A number with the range in which a search looks for it, on a log scale, and its limits."""
    return Field(
        default=default,
        description=description,
        json_schema_extra={"search": {"low": low, "high": high, "log": True}},
        ge=ge,
        gt=gt,
        le=le,
    )


@dataclass(frozen=True)
class Reshaping:
    """What an operator does to a map's shape, as far as it decides which pathways make sense."""

    shrinks: int = 1  # sides become so many times smaller
    side: int | None = None  # sides become that
    makes_places_of_channels: bool = False


@dataclass(frozen=True)
class Card:
    """What a method declares; what is not said is the usual."""

    systems: tuple[str, ...] = ()  # ids of the published systems that it carries
    evidence: Evidence = Evidence.PUBLISHED
    differences: str = ""  # where we differ from the paper, in words
    needs: frozenset[Need] = frozenset()
    trains: bool = False  # parameters of its own, beside the student's
    owns: frozenset[Owned] = frozenset()
    train_time_only: bool = True  # the student is served without it
    zero_at_equality: bool = False  # 0 where student and teacher say the same
    temperatures: tuple[str, ...] = ()  # those of a logit loss that it uses: teacher, student
    teaches_logits: bool = False  # of a feature loss: with some setting it teaches the student's logits
    least_batch: int = 1  # images that have to be compared with each other for it to say anything
    keeps_channels: bool = False  # of a transform: its output has the student's channels, not the teacher's
    ignores_channels: bool = False  # of a distance: it compares maps of any number of channels
    compares_places: bool = False  # of a distance: it is blind on maps of one pixel
    reshaping: Reshaping | None = None  # of an operator
    config: type[MethodConfig] = MethodConfig

    def described(self) -> dict[str, JsonValue]:
        """The card as JSON, the settings as a JSON schema."""
        return {
            "systems": [*self.systems],
            "evidence": self.evidence.value,
            "differences": self.differences,
            "needs": [*sorted(need.value for need in self.needs)],
            "trains": self.trains,
            "owns": [*sorted(owned.value for owned in self.owns)],
            "train_time_only": self.train_time_only,
            "zero_at_equality": self.zero_at_equality,
            "temperatures": [*self.temperatures],
            "teaches_logits": self.teaches_logits,
            "least_batch": self.least_batch,
            "keeps_channels": self.keeps_channels,
            "ignores_channels": self.ignores_channels,
            "compares_places": self.compares_places,
            "reshaping": None if self.reshaping is None else asdict(self.reshaping),
            "config": self.config.model_json_schema(),
        }

    def ranges(self) -> Mapping[str, Mapping[str, Any]]:
        """The ranges of the settings that can be searched, by name."""
        extras = {name: field.json_schema_extra for name, field in self.config.model_fields.items()}
        return {
            name: extra["search"]  # type: ignore[misc]
            for name, extra in extras.items()
            if isinstance(extra, dict) and "search" in extra
        }
