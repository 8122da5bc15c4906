"""The stages search and tuning: which process, and which temperature and weight of KD, to try next.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from search.arms import (
    ArmName,
    ProcessKind,
    dimensions_of,
    held,
    replay_run,
    search_run,
    that_distil,
    tuning_dimensions,
    tuning_run,
)
from search.dimensions import Choices, Observation, Strategy, starting_choices
from search.history import accuracy, best, completed, failed, free_index
from search.moment import Moment, fill, proposal, start_or_wait, without_success
from search.proof_runs import learned_process
from search.records import Action, Proposal, StageName, TrialKey, TrialRecord
from search.registry import Kind, get
from search.strategies.random import random_search

TOLERATED_TUNING_FAILURES = 3
UNFINISHED = "unfinished"
"""Under this name a trial's choices keep which earlier trials were unfinished when it was proposed: with the
records of the others a proposal can be made again."""


def search(moment: Moment) -> Action | None:
    """Search trials, while there are some left and the budget holds."""
    proposals = [] if _is_closed(moment) else fill(moment, _search_trial)
    searched = moment.history.of(StageName.SEARCH, ArmName.SEARCHED)
    return start_or_wait(proposals, searched) or without_success(searched, "search")


def replays(moment: Moment) -> Action | None:
    """The best trial's process once more on the search splits: as a schedule, and held at its end."""
    spec, history = moment.spec, moment.history
    replayed = [trial for trial in history.of(StageName.SEARCH) if trial.key.arm != ArmName.SEARCHED]
    trial = best(history.of(StageName.SEARCH, ArmName.SEARCHED))
    assert trial is not None, "the search stage does not end without a completed trial"
    learned = learned_process(trial)
    missing = [
        proposal(TrialKey(StageName.SEARCH, kind.value, spec.search.seed, 0), replay_run(spec, process))
        for kind, process in ((ProcessKind.SCHEDULE, learned), (ProcessKind.CONSTANT, held(learned)))
        if not any(replay.key.arm == kind for replay in replayed)
    ]
    action = start_or_wait(missing[: moment.room()], history.unfinished())
    return action or without_success(replayed, "replay of the learned process")


def tuning(moment: Moment) -> Action | None:
    """Random search of KD's temperature and weight, at the compute that the search took."""
    has_proof = bool(moment.history.of(StageName.PROOF))
    proposals = [] if has_proof else fill(moment, _tuning_trial)
    tuned = moment.history.of(StageName.TUNING)
    return start_or_wait(proposals, tuned) or without_success(tuned, "tuning of KD")


def _is_closed(moment: Moment) -> bool:
    """Once the search has ended it does not open again, whatever the budget looks like by then."""
    searched = moment.history.of(StageName.SEARCH)
    later = moment.history.of(StageName.TUNING) + moment.history.of(StageName.PROOF)
    return bool(later) or any(trial.key.arm != ArmName.SEARCHED for trial in searched)


def _search_trial(moment: Moment) -> Proposal | None:
    """The next search trial; None when trials or budget are spent. At least one is to complete."""
    spec, searched = moment.spec, moment.history.of(StageName.SEARCH, ArmName.SEARCHED)
    index = free_index(searched)
    if index >= spec.budget.trials:
        return None
    choices = _choices(moment, searched, index)
    parameters = search_run(spec, choices, moment.history.preflight())
    if not _is_needed(searched) and not moment.budgeting().has_room_for_search(parameters):
        return None
    unfinished = [trial.key.index for trial in searched if not trial.state.is_final]
    key = TrialKey(StageName.SEARCH, ArmName.SEARCHED.value, spec.search.seed, index)
    return proposal(key, parameters.model_copy(update={"choices": {**choices, UNFINISHED: unfinished}}))


def _choices(moment: Moment, searched: Sequence[TrialRecord], index: int) -> Choices:
    """The first trial is the sensible one, the others are the strategy's; none of them distils nothing."""
    spec, dimensions = moment.spec, dimensions_of(moment.spec)
    if index == 0:
        choices = starting_choices(dimensions)
    else:
        strategy: Strategy = get(Kind.STRATEGY, spec.search.strategy).factory
        observations = [_observation(trial) for trial in searched]
        choices = strategy(dimensions, observations, index=index, seed=spec.search.seed)
    return that_distil(spec, choices, moment.history.preflight())


def _observation(trial: TrialRecord) -> Observation:
    choices = trial.parameters["choices"]
    return Observation(
        index=trial.key.index,
        choices={name: value for name, value in choices.items() if name != UNFINISHED},
        state=trial.state,
        accuracy=accuracy(trial) if completed([trial]) else None,
        curve=tuple((round(point.epoch), point.accuracy) for point in trial.curve),
    )


def _tuning_trial(moment: Moment) -> Proposal | None:
    """The next tuning trial; None when tuning has had as much compute as the search, or keeps failing.

    Plain KD itself is tried first, so that tuning cannot end below it on validation.
    """
    spec, tuned = moment.spec, moment.history.of(StageName.TUNING)
    failures = len(failed(tuned))
    if failures > TOLERATED_TUNING_FAILURES and 2 * failures > len(tuned):
        return None
    index, seed = free_index(tuned), spec.search.seed
    choices = random_search(tuning_dimensions(spec), (), index=index, seed=seed) if index else {}
    parameters = tuning_run(spec, choices)
    budgeting = moment.budgeting()
    has_room = not budgeting.tuning_is_even() and budgeting.has_room_for_tuning(parameters)
    if not has_room and not _is_needed(tuned):
        return None
    return proposal(TrialKey(StageName.TUNING, ArmName.TUNED_KD.value, seed, index), parameters)


def _is_needed(trials: Sequence[TrialRecord]) -> bool:
    """Whether one more trial has to be tried for there to be any that completes."""
    return not completed(trials) and all(trial.state.is_final for trial in trials)
