"""The stage search: which process to try next, from which to go on, which edits of the best to replay.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

from search.dimensions import Choices, Observation, Strategy, starting_choices
from search.planning.arms import (
    ArmName,
    dimensions_of,
    replay_run,
    search_run,
    warm_started,
)
from search.planning.candidates import Candidate
from search.planning.findings import (
    WARM_STARTED,
    candidates,
    given_candidate,
    learned_process,
    learning_trials,
    replay_trials,
)
from search.planning.given import FOUND_IN
from search.planning.history import accuracy, best, completed, free_index
from search.planning.moment import Moment, fill, is_needed, start_or_wait, without_success
from search.planning.nearest import nearest_that_work
from search.records import (
    Action,
    Proposal,
    RunParameters,
    StageName,
    Start,
    TrialKey,
    TrialRecord,
    Wait,
)
from search.registry import Kind, get

UNFINISHED = "unfinished"
"""Under this name a trial's choices keep which earlier trials were unfinished when it was proposed: with the
records of the others a proposal can be made again."""


def search(moment: Moment) -> Action | None:
    """Search trials, while there are some left and the budget holds. Nothing is left to search for where a
    process was given."""
    if moment.given is not None:
        return None
    proposals = [] if _is_closed(moment) else fill(moment, _search_trial)
    searched = moment.history.of(StageName.SEARCH, ArmName.SEARCHED)
    return start_or_wait(proposals, searched) or without_success(searched, "search")


def further_rounds(moment: Moment) -> Action | None:
    """The best process learned once more from where it ended: what was learned late then holds early too."""
    again = moment.history.of(StageName.SEARCH, WARM_STARTED)
    if any(not trial.state.is_final for trial in again):
        return Wait()
    rounds_ahead = moment.spec.search.rounds - 2 - len(again)
    if moment.given is not None or rounds_ahead < 0 or replay_trials(moment.history):
        return None
    trial = best(learning_trials(moment.history))
    assert trial is not None, "the search stage does not end without a completed trial"
    run = warm_started(RunParameters.model_validate(trial.parameters), learned_process(trial))
    if not moment.budgeting().has_room_for_search(run, rounds_ahead=rounds_ahead):
        return None
    key = TrialKey(StageName.SEARCH, WARM_STARTED, moment.spec.search.seed, len(again))
    return Start((moment.proposal(key, run),))


def replays(moment: Moment) -> Action | None:
    """Edits of the best trial's process on the search splits, with every replay seed, to be judged on
    validation."""
    spec, history = moment.spec, moment.history
    found = candidates(spec, history)
    if not found and moment.given is not None:
        found = [given_candidate(moment.given.process)]
    wanted = [(candidate, index) for candidate in found for index in range(spec.search.replay_seeds)]
    missing = [
        moment.proposal(key, _replay_run(moment, candidate))
        for candidate, index in wanted
        if history.get(key := _replay_key(moment, candidate, index)) is None
    ]
    action = start_or_wait(missing[: moment.room()], replay_trials(history))
    return action or without_success(replay_trials(history), "replay of the learned process")


def _replay_run(moment: Moment, candidate: Candidate) -> RunParameters:
    run = replay_run(moment.spec, candidate.process)
    if moment.given is None:
        return run
    return run.model_copy(update={"choices": {FOUND_IN: moment.given.search_device_seconds}})


def _replay_key(moment: Moment, candidate: Candidate, index: int) -> TrialKey:
    seed = (moment.spec.search.seed + index) % 2**31
    return TrialKey(StageName.SEARCH, candidate.arm, seed, index)


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
    rounds_ahead = spec.search.rounds - 1
    budgeting = moment.budgeting()
    if not is_needed(searched) and not budgeting.has_room_for_search(parameters, rounds_ahead=rounds_ahead):
        return None
    unfinished = [trial.key.index for trial in searched if not trial.state.is_final]
    key = TrialKey(StageName.SEARCH, ArmName.SEARCHED.value, spec.search.seed, index)
    noted = {**choices, UNFINISHED: unfinished}
    return moment.proposal(key, parameters.model_copy(update={"choices": noted}))


def _choices(moment: Moment, searched: Sequence[TrialRecord], index: int) -> Choices:
    """The first trial is the sensible one, the others are the strategy's; all distil, with methods that go
    together."""
    spec, dimensions = moment.spec, dimensions_of(moment.spec)
    if index == 0:
        choices = starting_choices(dimensions)
    else:
        strategy: Strategy = get(Kind.STRATEGY, spec.search.strategy).factory
        observations = [_observation(trial) for trial in searched]
        choices = strategy(dimensions, observations, index=index, seed=spec.search.seed)
    found = nearest_that_work(spec, choices, moment.history.preflight())
    assert found is not None, "the plan refuses a space without choices that work"
    return found


def _observation(trial: TrialRecord) -> Observation:
    choices = trial.parameters["choices"]
    return Observation(
        index=trial.key.index,
        choices={name: value for name, value in choices.items() if name != UNFINISHED},
        state=trial.state,
        accuracy=accuracy(trial) if completed([trial]) else None,
        curve=tuple((round(point.epoch), point.accuracy) for point in trial.curve),
    )
