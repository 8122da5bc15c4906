"""What a search has found: its best process, and the edit of it that validation chose. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search.planning.arms import ArmName, starting_weights
from search.planning.candidates import (
    Candidate,
    Judged,
    ProcessKind,
    shapes,
    simplest_of_the_best,
    with_all_pathways,
)
from search.planning.given import GIVEN, given_replays
from search.planning.history import History, accuracy, best, completed
from search.planning.process_shapes import pruned
from search.recipe import Point, Process
from search.records import StageName, TrialRecord
from search.spec import JobSpec

WARM_STARTED = "warm_started"
"""The arm of search trials that begin where an earlier one ended."""
LEARNING_ARMS = (ArmName.SEARCHED.value, WARM_STARTED)


@dataclass(frozen=True)
class Found:
    """What the search found. `trial` learned the process, or is the replay of one that was handed in."""

    trial: TrialRecord
    learned: Process
    start: Point
    judged: tuple[Judged, ...]
    replays: tuple[TrialRecord, ...]

    @property
    def chosen(self) -> Judged:
        """The candidate that the searched arm is."""
        return simplest_of_the_best(self.judged)

    @property
    def kind(self) -> ProcessKind:
        """How the searched arm's process goes over time."""
        return self.chosen.candidate.kind

    @property
    def searched(self) -> Process:
        """The process of the searched arm."""
        return self.chosen.candidate.process

    @property
    def replay(self) -> TrialRecord:
        """A completed replay of the searched arm's process."""
        return next(trial for trial in self.replays if trial.key.arm == self.chosen.candidate.arm)

    @property
    def schedule(self) -> Process:
        """What was learned, over the searched arm's pathways: what the ablations in time change."""
        return self._over_searched_pathways(self.learned)

    @property
    def uniform(self) -> Process:
        """Where the search began, in weights and temperatures, held, over the searched arm's pathways."""
        return self._over_searched_pathways(self.learned.model_copy(update={"points": [self.start]}))

    def _over_searched_pathways(self, process: Process) -> Process:
        names = {pathway.name for pathway in self.searched.pathways}
        kept = [place for place, pathway in enumerate(process.pathways) if pathway.name in names]
        return pruned(process, kept)


def learned_process(trial: TrialRecord) -> Process:
    """The process that a completed search trial learned."""
    assert trial.result is not None
    return Process.model_validate(trial.result["process"])


def starting_point(trial: TrialRecord, history: History) -> Point:
    """Where the search began whose trial this is, or goes on from."""
    searched = completed(history.of(StageName.SEARCH, ArmName.SEARCHED))
    choices = trial.parameters["choices"]
    first = next(other for other in searched if other.parameters["choices"] == choices)
    return learned_process(first).points[0]


def learning_trials(history: History) -> list[TrialRecord]:
    """The trials that learn a process, warm-started ones included."""
    return [trial for arm in LEARNING_ARMS for trial in history.of(StageName.SEARCH, arm)]


def replay_trials(history: History, arm: str | None = None) -> list[TrialRecord]:
    """The trials of the search stage that replay an edit of the learned process, or one that was given."""
    replays = [trial for trial in history.of(StageName.SEARCH) if trial.key.arm not in LEARNING_ARMS]
    return [trial for trial in replays if arm in (None, trial.key.arm)]


def candidates(spec: JobSpec, history: History) -> list[Candidate]:
    """The edits of the best learned process that are to be replayed, as far as they are known by now.

    First its shapes over time; once they are judged, the best shape with all pathways.
    """
    given = given_replays(history)
    if given:
        return [given_candidate(Process.model_validate(given[0].parameters["process"]))]
    trial = best(learning_trials(history))
    if trial is None:
        return []
    learned = learned_process(trial)
    first = shapes(learned, starting_point(trial, history))
    judged = judge_replays(first, history)
    is_open = any(not _replays_have_ended(spec, one, history) for one in first)
    whole = (
        None if is_open or not judged else with_all_pathways(learned, simplest_of_the_best(judged).candidate)
    )
    return [*first, *([whole] if whole else [])]


def given_candidate(process: Process) -> Candidate:
    """A process that is handed in, as the only candidate."""
    return Candidate(GIVEN, ProcessKind.CONSTANT if process.is_constant else ProcessKind.SCHEDULE, process)


def judge_replays(found: Sequence[Candidate], history: History) -> list[Judged]:
    """The candidates of which a replay has completed."""
    judged = []
    for candidate in found:
        runs = completed(replay_trials(history, candidate.arm))
        if runs:
            images = int((runs[0].result or {})["images"])
            judged.append(Judged(candidate, tuple(accuracy(run) for run in runs), images))
    return judged


def what_search_found(spec: JobSpec, history: History) -> Found:
    """The best learned process, and its judged candidates.

    Raises ValueError before the search and a replay have ended.
    """
    found = candidates(spec, history)
    judged = judge_replays(found, history)
    trial = best(learning_trials(history)) or best(given_replays(history))
    if trial is None or not judged:
        raise ValueError("no search trial has completed yet, or no replay of it")
    replays = tuple(completed(replay_trials(history)))
    if trial.key.arm == GIVEN:
        given = found[0].process
        start = starting_weights(spec, len(given.logit_losses), len(given.pathways))
        return Found(trial, given, start, tuple(judged), replays)
    return Found(trial, learned_process(trial), starting_point(trial, history), tuple(judged), replays)


def replays_json(found: Found) -> list[dict[str, Any]]:
    """Every candidate that was judged on validation, the best first, with its figures; one was chosen."""
    chosen = found.chosen
    return [
        {
            "arm": one.candidate.arm,
            "kind": one.candidate.kind.value,
            "pathways": len(one.candidate.process.pathways),
            "accuracy": one.accuracy,
            "standard_error": one.standard_error,
            "accuracies": list(one.accuracies),
            "images": one.images,
            "device_seconds": math.fsum(
                trial.device_seconds for trial in found.replays if trial.key.arm == one.candidate.arm
            ),
            "chosen": one is chosen,
        }
        for one in sorted(found.judged, key=lambda one: -one.accuracy)
    ]


def _replays_have_ended(spec: JobSpec, candidate: Candidate, history: History) -> bool:
    runs = replay_trials(history, candidate.arm)
    return len(runs) >= spec.search.replay_seeds and all(run.state.is_final for run in runs)
