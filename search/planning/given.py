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
        """A recipe's process, with the device-seconds of the search that its evidence tells of."""
        return cls(recipe.process, _told(recipe.evidence))


def given_replays(history: History) -> list[TrialRecord]:
    """The replays of a process that was handed in; none in a job that searches."""
    return history.of(StageName.SEARCH, GIVEN)


def found_elsewhere_seconds(history: History) -> float:
    """Device-seconds that finding the given process took elsewhere; 0 in a job that searches."""
    told = [trial.parameters["choices"].get(FOUND_IN, 0.0) for trial in given_replays(history)]
    return float(max(told, default=0.0))


def _told(evidence: dict[str, Any]) -> float:
    """The report of a job has its stages' device-seconds, what `search.find` writes has every trial's."""
    by_stage = evidence.get("device_seconds")
    if isinstance(by_stage, dict):
        return float(by_stage.get(StageName.SEARCH.value, 0.0))
    trials = evidence.get("trials")
    if not isinstance(trials, list):
        return 0.0
    searched = (trial for trial in trials if str(trial["key"]).startswith(f"{StageName.SEARCH.value}-"))
    return math.fsum(float(trial["device_seconds"]) for trial in searched)
