"""What a search has found: its best process, and the edit of it that validation chose. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search.planning.arms import ArmName, is_at_constant_length, starting_weights
from search.planning.candidates import (
    Candidate,
    Judged,
    ProcessKind,
    doubled,
    shapes,
    simplest_of_the_best,
    with_all_pathways,
)
from search.planning.given import GIVEN, given_replays
from search.planning.history import History, accuracy, best, completed
from search.planning.logit_givers import logit_givers
from search.planning.process_shapes import pruned, scaled
from search.recipe import Point, Process
from search.records import StageName, TrialRecord, TrialState
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
        """What was learned, over the searched arm's pathways and as large as its weights: what the ablations
        in time change."""
        return scaled(self._over_searched_pathways(self.learned), self.chosen.candidate.scale)

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

    First its shapes over time; once they are judged, the best shape with all pathways; then the best of
    them with larger weights, one after the other.
    """
    given = given_replays(history)
    if given:
        return [given_candidate(Process.model_validate(given[0].parameters["process"]))]
    trial = best(learning_trials(history))
    if trial is None:
        return []
    learned = learned_process(trial)
    kept = logit_givers(learned.pathways, history.preflight().cards)
    found = shapes(learned, starting_point(trial, history), kept=kept)
    best_shape = _best_of(spec, found, history)
    whole = with_all_pathways(learned, best_shape) if best_shape else None
    found += [whole] if whole else []
    if not is_at_constant_length(spec):
        return found
    while (chosen := _best_of(spec, found, history)) and (larger := doubled(chosen)):
        if larger.arm in {one.arm for one in found}:
            break
        found.append(larger)
    return found


def given_candidate(process: Process) -> Candidate:
    """A process that is handed in, as the only candidate."""
    return Candidate(GIVEN, ProcessKind.CONSTANT if process.is_constant else ProcessKind.SCHEDULE, process)


def judge_replays(found: Sequence[Candidate], history: History) -> list[Judged]:
    """The candidates of which a replay has completed; where there are others, without those of which a
    replay failed: the mean over the seeds that got through would be in their favour."""
    judged, sound = [], []
    for candidate in found:
        trials = replay_trials(history, candidate.arm)
        if not (runs := completed(trials)):
            continue
        images = int((runs[0].result or {})["images"])
        judged.append(Judged(candidate, tuple(accuracy(run) for run in runs), images))
        if not any(trial.state is TrialState.FAILED for trial in trials):
            sound.append(judged[-1])
    return sound or judged


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


def _best_of(spec: JobSpec, found: Sequence[Candidate], history: History) -> Candidate | None:
    """Of candidates whose replays have all ended; None before, and where none has completed."""
    judged = judge_replays(found, history)
    if not judged or any(not _replays_have_ended(spec, one, history) for one in found):
        return None
    return simplest_of_the_best(judged).candidate


def _replays_have_ended(spec: JobSpec, candidate: Candidate, history: History) -> bool:
    runs = replay_trials(history, candidate.arm)
    return len(runs) >= spec.search.replay_seeds and all(run.state.is_final for run in runs)
