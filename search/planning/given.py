"""A process that is proved without a search: it was found elsewhere. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from search.planning.history import History
from search.recipe import Process, Recipe
from search.records import StageName, TrialRecord

GIVEN = "given"
"""The arm of replays of a process that was not searched here but handed in."""
FOUND_IN = "search_device_seconds"
"""Under this name the replay's choices keep what finding the process took: the report is made of records."""


@dataclass(frozen=True)
class GivenProcess:
    """`search_device_seconds`: what finding it took, wherever that was; 0 where nobody says."""

    process: Process
    search_device_seconds: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe) -> GivenProcess:
        """A recipe's process, with the device-seconds of finding it that its evidence tells of."""
        return cls(recipe.process, _told(recipe.arm, recipe.evidence))


def given_replays(history: History) -> list[TrialRecord]:
    """The replays of a process that was handed in; none in a job that searches."""
    return history.of(StageName.SEARCH, GIVEN)


def found_elsewhere_seconds(history: History) -> float:
    """Device-seconds that finding the given process took elsewhere; 0 in a job that searches."""
    told = [trial.parameters["choices"].get(FOUND_IN, 0.0) for trial in given_replays(history)]
    return float(max(told, default=0.0))


def _told(arm: str, evidence: dict[str, Any]) -> float:
    """What a job's report says of its winning arm; of what `search.find` writes, the search trials' sum.

    Evidence is free: what is not there, or is no number, is not known.
    """
    for one in _documents(evidence.get("arms")):
        if one.get("arm") == arm:
            return _seconds(one.get("search_device_seconds"))
    searched = f"{StageName.SEARCH.value}-"
    return math.fsum(
        _seconds(trial.get("device_seconds"))
        for trial in _documents(evidence.get("trials"))
        if str(trial.get("key", "")).startswith(searched)
    )


def _documents(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return 0.0
    return max(0.0, float(value))
