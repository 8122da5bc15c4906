"""Budgets: refused when too small, spent as promised, shared evenly between search and tuning."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from search.plan import next_trials
from search.planning.arms import ArmName
from search.planning.candidates import MOST_EDITS
from search.planning.costs import RunKind
from search.records import Fail, Finish, RunParameters, StageName, TrialKey, TrialState, Wait
from tests.search.planning.simulated_job import (
    SECONDS_PER_STEP,
    STEPS_PER_EPOCH,
    SimulatedJob,
    accuracy_by_arm,
    make_spec,
    noise,
    preflight_result,
    run_seconds,
)

WITHOUT_LONGER = ["student_alone", "plain_kd", "tuned_kd", "uniform", "searched"]
EPOCHS = 4


def run_of(kind: RunKind, splits: str) -> dict[str, Any]:
    """The least of RunParameters that costs look at."""
    return {
        "learn": {"update_every_steps": 1} if kind is RunKind.SEARCH else None,
        "process": {
            "pathways": ["one"] if kind in (RunKind.SEARCH, RunKind.PATHWAYS) else [],
            "logit_losses": [] if kind is RunKind.STUDENT_ALONE else ["kd"],
        },
        "splits": splits,
        "epochs": EPOCHS,
    }


def smallest_job(seeds: int, *, longer: bool, rounds: int = 1, replay_seeds: int = 1) -> tuple[float, float]:
    """Device-seconds of the smallest job, and wall seconds of it one trial at a time, after preflight."""
    search = rounds * run_seconds(run_of(RunKind.SEARCH, "search"))
    search += MOST_EDITS * replay_seeds * run_seconds(run_of(RunKind.PATHWAYS, "search"))
    alone, kd, pathways = (
        run_seconds(run_of(kind, "proof")) for kind in (RunKind.STUDENT_ALONE, RunKind.KD, RunKind.PATHWAYS)
    )
    proof = seeds * (alone + 2 * kd + 2 * pathways + (search + pathways if longer else 0.0))
    return 2.0 + 2 * search + proof, 2 * search + proof


def report_of(job: SimulatedJob) -> dict[str, Any]:
    action = job.run()
    assert isinstance(action, Finish), action
    assert action.report is not None
    return action.report


class TestRefusal:
    @pytest.mark.parametrize("longer", [False, True])
    @pytest.mark.parametrize("devices", [1.0, 4.0])
    def test_device_seconds_are_refused_just_below_the_smallest_job(
        self, longer: bool, devices: float
    ) -> None:
        needed = devices * smallest_job(3, longer=longer)[0]
        arms = WITHOUT_LONGER + (["longer_kd"] if longer else [])

        def job(limit: float) -> SimulatedJob:
            resources = {"cpus": devices}
            return SimulatedJob(
                make_spec(
                    proof={"arms": arms}, budget={"device_seconds": limit}, resources_per_trial=resources
                )
            )

        refused = job(needed * 0.999).run()
        assert isinstance(refused, Fail)
        assert refused.code == "budget_too_small"
        raised = re.search(r"Raise budget.device_seconds to at least (\d+)", refused.message)
        assert raised is not None
        assert isinstance(job(float(raised[1])).run(), Finish)
        assert isinstance(job(needed * 1.001).run(), Finish)

    def test_wall_seconds_count_what_has_passed(self) -> None:
        def job(limit: float) -> SimulatedJob:
            search = {"concurrent_trials": 1}
            return SimulatedJob(
                make_spec(proof={"arms": WITHOUT_LONGER}, budget={"wall_seconds": limit}, search=search)
            )

        passed = 2.0  # teacher and preflight take a second each
        needed = passed + smallest_job(3, longer=False)[1]
        refused = job(needed * 0.999).run()
        assert isinstance(refused, Fail)
        assert refused.code == "budget_too_small"
        assert "budget.wall_seconds" in refused.message
        assert isinstance(job(needed * 1.001).run(), Finish)

    @pytest.mark.parametrize(("rounds", "replay_seeds"), [(3, 1), (1, 3), (2, 2)])
    def test_further_rounds_and_replay_seeds_are_reserved(self, rounds: int, replay_seeds: int) -> None:
        needed = smallest_job(3, longer=False, rounds=rounds, replay_seeds=replay_seeds)[0]
        search = {"rounds": rounds, "replay_seeds": replay_seeds}

        def job(limit: float) -> SimulatedJob:
            spec = make_spec(proof={"arms": WITHOUT_LONGER}, budget={"device_seconds": limit}, search=search)
            return SimulatedJob(spec, idle_pathways=(1,))

        assert isinstance(job(needed * 0.999).run(), Fail)
        report = report_of(job(needed * 1.001))
        assert report["trials"]["search"] == rounds
        assert report["trials"]["replay"] == MOST_EDITS * replay_seeds
        assert report["device_seconds"]["total"] <= needed * 1.001

    def test_more_trials_at_once_need_less_wall_time(self) -> None:
        needed = 2.0 + smallest_job(3, longer=False)[1]
        spec = make_spec(
            proof={"arms": WITHOUT_LONGER},
            budget={"wall_seconds": 0.6 * needed},
            search={"concurrent_trials": 4},
        )
        assert isinstance(SimulatedJob(spec).run(), Finish)

    def test_a_dry_run_checks_the_budget_too(self) -> None:
        action = SimulatedJob(make_spec(budget={"device_seconds": 1.0}), dry_run=True).run()
        assert isinstance(action, Fail)
        assert action.code == "budget_too_small"

    def test_a_job_under_way_is_not_refused_any_more(self) -> None:
        job = SimulatedJob(make_spec(budget={"wall_seconds": 200.0}))
        job.run_to(StageName.PROOF)
        job.elapsed_seconds = 1000.0
        assert isinstance(job.run(), Finish)


class TestSpending:
    @pytest.mark.parametrize("at_once", [1, 3])
    @pytest.mark.parametrize("share", [1.3, 2.0, 4.0])
    def test_device_seconds_are_kept(self, at_once: int, share: float) -> None:
        limit = share * smallest_job(3, longer=True)[0]
        spec = make_spec(
            budget={"trials": 50, "device_seconds": limit},
            proof={"arms": [*WITHOUT_LONGER, "longer_kd"]},
            search={"concurrent_trials": at_once},
        )
        job = SimulatedJob(spec)
        report = report_of(job)
        assert 1 <= report["trials"]["search"] < 50
        one_run = run_seconds(run_of(RunKind.KD, "search"))
        assert report["device_seconds"]["total"] <= limit + one_run
        assert any("The search ended after" in note for note in report["notes"])

    def test_a_larger_budget_buys_more_trials(self) -> None:
        def trials(share: float) -> int:
            limit = share * smallest_job(3, longer=False)[0]
            spec = make_spec(
                budget={"trials": 50, "device_seconds": limit},
                proof={"arms": WITHOUT_LONGER},
                search={"pruning": {"enabled": False}},
            )
            return int(report_of(SimulatedJob(spec))["trials"]["search"])

        assert 1 == trials(1.01) < trials(2.0) < trials(4.0)

    def test_wall_seconds_are_kept(self) -> None:
        limit = 1.5 * smallest_job(3, longer=False)[1]
        spec = make_spec(budget={"trials": 50, "wall_seconds": limit}, proof={"arms": WITHOUT_LONGER})
        job = SimulatedJob(spec)
        report = report_of(job)
        assert 1 < report["trials"]["search"] < 50
        assert job.elapsed_seconds <= limit * 1.02

    def test_trials_that_cost_more_than_predicted_end_the_search_earlier(self) -> None:
        limit = 4 * smallest_job(3, longer=False)[0]

        def job(slowness: float) -> SimulatedJob:
            spec = make_spec(
                budget={"trials": 50, "device_seconds": limit},
                proof={"arms": WITHOUT_LONGER},
                search={"pruning": {"enabled": False}},
            )
            return SimulatedJob(spec, slowness=slowness)

        as_predicted, slow = (report_of(job(slowness))["trials"] for slowness in (1.0, 2.0))
        assert slow["search"] < as_predicted["search"]

    def test_one_trial_must_complete_even_when_the_budget_is_gone(self) -> None:
        """The first trial fails after using up everything: another is run all the same."""
        limit = 1.1 * smallest_job(3, longer=False)[0]
        job = SimulatedJob(
            make_spec(
                budget={"device_seconds": limit},
                proof={"arms": WITHOUT_LONGER},
                search={"concurrent_trials": 1},
            ),
            failures={StageName.SEARCH: lambda key: key.arm == "searched" and key.index == 0},
            slowness=3.0,
        )
        report = report_of(job)
        states = [trial.state for trial in job.of(StageName.SEARCH, "searched")]
        assert states == [TrialState.FAILED, TrialState.COMPLETED]
        assert report["trials"]["search"] == 2


class TestTuning:
    @pytest.mark.parametrize("at_once", [1, 2, 3])
    def test_it_gets_the_compute_of_the_search_and_one_run_more_at_most(self, at_once: int) -> None:
        job = SimulatedJob(make_spec(search={"concurrent_trials": at_once, "pruning": {"enabled": False}}))
        spent = report_of(job)["device_seconds"]
        assert (
            spent["search"] <= spent["tuning"] <= spent["search"] + run_seconds(run_of(RunKind.KD, "search"))
        )

    def test_none_is_stopped_early(self) -> None:
        job = SimulatedJob(
            make_spec(search={"pruning": {"warmup_epochs": 1}}, budget={"trials": 6}),
            accuracy=lambda key, parameters: 0.6 + 0.1 * noise(key),
        )
        report_of(job)
        states = {stage: {trial.state for trial in job.of(stage)} for stage in StageName}
        assert TrialState.STOPPED_EARLY in states[StageName.SEARCH]
        assert states[StageName.TUNING] == {TrialState.COMPLETED}

    def test_plain_kd_is_tried_first_then_the_ranges_are_drawn_from(self) -> None:
        job = SimulatedJob(make_spec(tuning={"temperature": {"low": 2.0, "high": 3.0}}))
        job.run_to(StageName.PROOF)
        first, *others = (RunParameters.model_validate(t.parameters) for t in job.of(StageName.TUNING))
        assert first.process.cross_entropy_weight == 0.1
        assert first.process.points[0].logit_weights == [0.9]
        assert len(others) > 5
        for run in others:
            assert run.process.cross_entropy_weight == 1.0
            assert run.splits == "search"
            (point,) = run.process.points
            assert 2.0 <= point.teacher_temperatures[0] <= 3.0
            assert point.teacher_temperatures == point.student_temperatures
            assert 0.1 <= point.logit_weights[0] <= 10.0

    def test_the_best_on_validation_is_proven(self) -> None:
        def accuracy(key: TrialKey, parameters: Mapping[str, Any]) -> float:
            if key.stage is StageName.TUNING:
                return 0.9 if key.index == 3 else 0.5
            return accuracy_by_arm()(key, parameters)

        job = SimulatedJob(make_spec(), accuracy=accuracy)
        report_of(job)
        chosen = job.of(StageName.TUNING)[3].parameters["process"]
        for arm in ("tuned_kd", "longer_kd"):
            assert all(trial.parameters["process"] == chosen for trial in job.of(StageName.PROOF, arm))

    def test_one_trial_is_enough_when_costs_are_not_measured(self) -> None:
        job = SimulatedJob(make_spec(), slowness=0.0)
        assert report_of(job)["trials"]["tuning"] == 1

    def test_it_fails_when_nothing_completes(self) -> None:
        job = SimulatedJob(make_spec(), failures={StageName.TUNING: lambda key: True})
        action = job.run()
        assert isinstance(action, Fail)
        assert action.code == "nan"
        assert action.message.startswith("tuning of KD: none of")
        assert 4 <= len(job.of(StageName.TUNING)) <= 6

    def test_failures_among_successes_do_not_end_it(self) -> None:
        job = SimulatedJob(make_spec(), failures={StageName.TUNING: lambda key: key.index % 3 == 0})
        spent = report_of(job)["device_seconds"]
        assert spent["tuning"] >= spent["search"]

    def test_it_stops_for_the_proof_when_time_runs_out(self) -> None:
        job = SimulatedJob(make_spec(budget={"wall_seconds": 300.0}, search={"concurrent_trials": 1}))
        job.run_to(StageName.TUNING)
        (first,) = job.of(StageName.TUNING)
        job.elapsed_seconds = 290.0
        assert job.ask() == Wait() or first.state.is_final
        job.run_to(StageName.PROOF)
        assert len(job.of(StageName.TUNING)) == 1
        report = report_of(job)
        search, tuning = (report["device_seconds"][stage] for stage in ("search", "tuning"))
        assert tuning < search / 5
        said = f"KD was tuned for only {tuning:.3g} of the search's {search:.3g} device-seconds"
        assert said in report["verdict"]["sentence"]
        assert any(note.startswith(said) for note in report["notes"])
        assert report["verdict"]["arm"] != "searched"
        assert next(d for d in report["differences"] if d["baseline"] == "tuned_kd")["lower"] > 0

    def test_tuned_at_equal_compute_nothing_is_remarked(self) -> None:
        report = report_of(SimulatedJob(make_spec()))
        assert "was tuned for only" not in json.dumps(report)
        assert report["verdict"]["arm"] == "searched"


class TestLongerKd:
    @pytest.mark.parametrize("validation_seconds", [0.0, 0.05, 1.0])
    @pytest.mark.parametrize("devices", [1.0, 3.0])
    def test_it_really_costs_what_the_search_and_one_training_cost(
        self, validation_seconds: float, devices: float
    ) -> None:
        """Within an epoch, and never more, although short trials spend much on starting and validating."""
        job = SimulatedJob(
            make_spec(search={"pruning": {"enabled": False}}, resources_per_trial={"cpus": devices}),
            validation_seconds=validation_seconds,
        )
        report = report_of(job)
        (searched,) = [arm for arm in report["arms"] if arm["arm"] == "searched"]
        (longer,) = [arm for arm in report["arms"] if arm["arm"] == "longer_kd"]
        promised = searched["search_device_seconds"] + searched["training_device_seconds"]
        epoch = devices * SECONDS_PER_STEP["kd"] * STEPS_PER_EPOCH["proof"]
        assert promised - epoch < longer["training_device_seconds"] <= promised * (1 + 1e-9)
        for trial in job.of(StageName.PROOF, "longer_kd"):
            assert trial.parameters["epochs"] == longer["epochs"] > EPOCHS

    def test_never_fewer_epochs_than_the_other_arms(self) -> None:
        cheap = preflight_result(seconds_per_step={**SECONDS_PER_STEP, "pathways": 0.001})
        job = SimulatedJob(make_spec(), preflight=cheap, slowness=0.0)
        report_of(job)
        assert {trial.parameters["epochs"] for trial in job.of(StageName.PROOF, "longer_kd")} == {EPOCHS}

    @pytest.mark.parametrize(
        ("longer", "words"),
        [
            (0.80, "A one-off run would have been better served by training tuned KD longer"),
            (0.72, "cannot be told apart"),
            (0.62, "Even a one-off run is better served by the search"),
        ],
    )
    def test_the_sentence_beside_the_verdict(self, longer: float, words: str) -> None:
        report = report_of(SimulatedJob(make_spec(), accuracy=accuracy_by_arm(longer_kd=longer)))
        assert words in report["verdict"]["longer_sentence"]


def test_every_arm_has_a_cost() -> None:
    from search.planning.budgeting import KIND_OF_ARM

    assert set(KIND_OF_ARM) | {ArmName.LONGER_KD} == set(ArmName)


def test_the_plan_is_asked_without_a_budget() -> None:
    assert next_trials(make_spec(), [], elapsed_seconds=1e9)
