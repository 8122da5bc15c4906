"""KD's tuning: random settings at the search's compute, the best of them trained again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from search.planning.arms import kd
from search.planning.given import GivenProcess
from search.planning.history import History
from search.planning.tuning import AGAIN, FINALISTS, finalists, tuned_process
from search.recipe import Process
from search.records import StageName, TrialKey, TrialState
from tests.search.planning.simulated_job import ACCURACY_OF_ARM, SimulatedJob, make_spec

LUCKY = 3


def lucky_once(key: TrialKey, parameters: Mapping[str, Any]) -> float:
    """One setting of KD trains best with the first seed, and worst with any other."""
    if key.stage is StageName.TUNING:
        best = 0.70 if key.arm == "tuned_kd" else 0.40
        return best if key.index == LUCKY else 0.60 - 0.001 * key.index
    return ACCURACY_OF_ARM[key.arm.removeprefix("pruned_")]


def tuned(replay_seeds: int, **changes: Any) -> SimulatedJob:
    spec = make_spec(search={"replay_seeds": replay_seeds}, budget={"trials": 4})
    job = SimulatedJob(spec, accuracy=lucky_once, **changes)
    job.run_to(StageName.PROOF)
    return job


def setting(job: SimulatedJob, index: int) -> Process:
    (trial,) = (t for t in job.of(StageName.TUNING, "tuned_kd") if t.key.index == index)
    return Process.model_validate(trial.parameters["process"])


def test_with_one_seed_the_best_run_counts() -> None:
    job = tuned(1)
    assert not job.of(StageName.TUNING, AGAIN)
    assert tuned_process(History(job.trials())) == setting(job, LUCKY)


@pytest.mark.parametrize("replay_seeds", [2, 3])
def test_a_setting_that_was_lucky_once_is_found_out(replay_seeds: int) -> None:
    job = tuned(replay_seeds)
    history = History(job.trials())
    again = job.of(StageName.TUNING, AGAIN)
    assert len(again) == FINALISTS * (replay_seeds - 1)
    assert {trial.key.index for trial in again} == {trial.key.index for trial in finalists(history)}
    assert LUCKY in {trial.key.index for trial in again}
    for trial in again:
        (first,) = (t for t in job.of(StageName.TUNING, "tuned_kd") if t.key.index == trial.key.index)
        assert trial.parameters == first.parameters
        assert trial.key.seed != first.key.seed
    assert tuned_process(history) == setting(job, 0)


def test_all_of_it_takes_what_the_search_took() -> None:
    job = tuned(3)
    spent = {
        stage: sum(trial.device_seconds for trial in job.of(stage))
        for stage in (StageName.SEARCH, StageName.TUNING)
    }
    run = max(trial.device_seconds for trial in job.of(StageName.TUNING))
    assert abs(spent[StageName.TUNING] - spent[StageName.SEARCH]) <= 2 * run


def test_repeats_that_fail_leave_the_setting_out() -> None:
    def fails(key: TrialKey) -> bool:
        return key.arm == AGAIN and key.index == LUCKY

    job = tuned(2, failures={StageName.TUNING: fails})
    states = {t.key.index: t.state for t in job.of(StageName.TUNING, AGAIN)}
    assert states[LUCKY] is TrialState.FAILED
    assert tuned_process(History(job.trials())) == setting(job, 0)


def test_nobody_is_tuned_before_a_trial_has_completed() -> None:
    with pytest.raises(ValueError, match="no tuning trial"):
        tuned_process(History([]))


@pytest.mark.parametrize("seconds", [5.0, 12.0])
def test_a_cheap_search_still_compares_settings(seconds: float) -> None:
    spec = make_spec(search={"replay_seeds": 3}, budget={"trials": 1})
    given = GivenProcess(kd(temperature=3.0, weight=2.0), search_device_seconds=seconds)
    job = SimulatedJob(spec, given=given)
    job.run_to(StageName.PROOF)
    assert len(job.of(StageName.TUNING, "tuned_kd")) > 1
    assert len(job.of(StageName.TUNING, AGAIN)) > 1


def test_repeats_go_round_the_finalists() -> None:
    """Where time runs out, no setting has had more chances than another by more than one."""
    job = tuned(3)
    seeds = [trial.key.seed for trial in job.of(StageName.TUNING, AGAIN)]
    assert len(seeds) == 2 * FINALISTS
    begun = [key for key in job.records if key.stage is StageName.TUNING and key.arm == AGAIN]
    first_round = {key.seed for key in begun[:FINALISTS]}
    assert len(first_round) == 1
