"""The stage tuning: KD's temperature and weight by random search, at the compute that the search took.

Where the search judges its candidates by several trainings (`search.replay_seeds`), so does tuning: its best
settings are trained again with as many further seeds, and the best mean counts. A setting chosen by a single
run is often one that was lucky: large weights train well with one seed and badly with the next.

Imports no torch.
"""

from __future__ import annotations

from search.planning.arms import ArmName, tuning_dimensions, tuning_run
from search.planning.history import History, accuracy, completed, failed, free_index
from search.planning.moment import Moment, fill, is_needed, start_or_wait, without_success
from search.recipe import Process
from search.records import Action, Proposal, RunParameters, StageName, TrialKey, TrialRecord
from search.spec import JobSpec
from search.strategies.random import random_search

FINALISTS = 3
"""So many settings of KD are trained again."""
AGAIN = "tuned_kd_again"
"""The arm under which they are."""
TOLERATED_FAILURES = 3


def tuning(moment: Moment) -> Action | None:
    """Settings of KD while they have had less compute than the search; then the best of them again."""
    has_proof = bool(moment.history.of(StageName.PROOF))
    proposals = [] if has_proof else fill(moment, _random_setting) or fill(moment, _again)
    tuned = moment.history.of(StageName.TUNING)
    return start_or_wait(proposals, tuned) or without_success(tuned, "tuning of KD")


def tuned_process(history: History) -> Process:
    """The setting of the best mean accuracy on validation, over as many runs as all finalists have.

    Those of which a repeat has failed are passed over. Raises ValueError before a tuning trial has completed.
    """
    broken = {trial.key.index for trial in failed(history.of(StageName.TUNING, AGAIN))}
    best_first = finalists(history)
    if not best_first:
        raise ValueError("no tuning trial has completed yet")
    sound = [trial for trial in best_first if trial.key.index not in broken] or best_first[:1]
    judged = [_runs_of(trial, history) for trial in sound]
    shared = min(map(len, judged))
    best = max(judged, key=lambda runs: sum(map(accuracy, runs[:shared])))
    return Process.model_validate(best[0].parameters["process"])


def finalists(history: History) -> list[TrialRecord]:
    """The best settings by their first run, the best first."""
    tried = completed(history.of(StageName.TUNING, ArmName.TUNED_KD))
    return sorted(tried, key=lambda trial: (-accuracy(trial), trial.key.index))[:FINALISTS]


def _runs_of(finalist: TrialRecord, history: History) -> list[TrialRecord]:
    """Its first run, and those that repeated it."""
    again = completed(history.of(StageName.TUNING, AGAIN))
    repeats = [trial for trial in again if trial.key.index == finalist.key.index]
    return [finalist, *sorted(repeats, key=lambda trial: trial.key.seed)]


def _random_setting(moment: Moment) -> Proposal | None:
    """The next setting; None when tuning has had as much compute as the search, or keeps failing.

    Plain KD itself is tried first, so that tuning cannot end below it on validation.
    """
    spec, tuned = moment.spec, moment.history.of(StageName.TUNING, ArmName.TUNED_KD)
    failures = len(failed(tuned))
    if failures > TOLERATED_FAILURES and 2 * failures > len(tuned):
        return None
    index, seed = free_index(tuned), spec.search.seed
    choices = random_search(tuning_dimensions(spec), (), index=index, seed=seed) if index else {}
    run = tuning_run(spec, choices)
    if not _has_room(moment, run) and not is_needed(tuned):
        return None
    return moment.proposal(TrialKey(StageName.TUNING, ArmName.TUNED_KD.value, seed, index), run)


def _has_room(moment: Moment, run: RunParameters) -> bool:
    if moment.history.of(StageName.TUNING, AGAIN):
        return False  # who the finalists are is settled
    budgeting = moment.budgeting()
    tried = len(moment.history.of(StageName.TUNING, ArmName.TUNED_KD))
    reserved = min(FINALISTS, tried + 1) * (moment.spec.search.replay_seeds - 1)
    return not budgeting.tuning_is_even(reserved_runs=reserved) and budgeting.has_room_for_tuning(run)


def _again(moment: Moment) -> Proposal | None:
    """A finalist with a further seed, once every setting has been tried."""
    tried = moment.history.of(StageName.TUNING, ArmName.TUNED_KD)
    if not all(trial.state.is_final for trial in tried):
        return None
    for repeat in range(1, moment.spec.search.replay_seeds):
        for finalist in finalists(moment.history):
            key = TrialKey(StageName.TUNING, AGAIN, _seed(moment.spec, repeat), finalist.key.index)
            run = RunParameters.model_validate(finalist.parameters)
            if moment.history.get(key) is None:
                return moment.proposal(key, run) if moment.budgeting().has_room_for_tuning(run) else None
    return None


def _seed(spec: JobSpec, repeat: int) -> int:
    return (spec.search.seed + repeat) % 2**31
