"""What the plan makes of a learned process: replays, further rounds, a given process, and the arms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from search.plan import best_search_trial, searched_run
from search.planning.arms import kd
from search.planning.candidates import MOST_EDITS
from search.planning.findings import what_search_found
from search.planning.given import GivenProcess
from search.planning.history import History, best
from search.planning.process_shapes import held, scaled
from search.planning.proof_runs import ProofRuns, arms_to_run
from search.recipe import Process
from search.records import Fail, RunParameters, StageName, TrialKey, TrialState
from search.spec import ARMS
from tests.search.planning.simulated_job import SimulatedJob, accuracy_by_arm, finished, make_spec


def replays(job: SimulatedJob) -> list[str]:
    learning = {"searched", "warm_started"}
    return [trial.key.arm for trial in job.of(StageName.SEARCH) if trial.key.arm not in learning]


def process_of(trial: Any) -> Process:
    return Process.model_validate(trial.parameters["process"])


def proof_processes(job: SimulatedJob) -> dict[str, Process]:
    return {trial.key.arm: process_of(trial) for trial in job.of(StageName.PROOF) if trial.key.seed == 0}


class TestPruning:
    def test_the_shapes_first_then_the_best_shape_with_all_pathways(self) -> None:
        job = SimulatedJob(
            make_spec(search={"concurrent_trials": 4}),
            accuracy=accuracy_by_arm(averaged=0.8),
            idle_pathways=(0,),
        )
        job.run_to(StageName.TUNING)
        starts = [
            [proposal.key.arm for proposal in getattr(action, "proposals", ())] for action in job.actions
        ]
        assert ["pruned_constant", "pruned_averaged", "pruned_schedule"] in starts
        assert ["averaged"] in starts
        assert len(replays(job)) == MOST_EDITS

    @pytest.mark.parametrize(
        ("changes", "pathways", "kind"),
        [
            ({}, 2, "constant"),
            ({"pruned_constant": 0.6}, 3, "constant"),
            ({"pruned_schedule": 0.9}, 2, "schedule"),
            ({"pruned_averaged": 0.9}, 2, "averaged"),
        ],
    )
    def test_validation_decides(self, changes: dict[str, float], pathways: int, kind: str) -> None:
        """In the second case the best shape is taken with all pathways, as it is better so."""
        means = {"constant": 0.8, "averaged": 0.5, "schedule": 0.5, **changes}
        if changes.get("pruned_constant"):
            means |= {"pruned_averaged": 0.4, "pruned_schedule": 0.4}
        job = SimulatedJob(make_spec(), accuracy=accuracy_by_arm(**means), idle_pathways=(1,))
        report = finished(job)
        searched = Process.model_validate(report["process"])
        assert report["process_kind"] == kind
        assert len(searched.pathways) == pathways
        assert all(process_of(trial) == searched for trial in job.of(StageName.PROOF, "searched"))

    def test_where_nothing_earned_its_weight_the_logits_alone_are_tried(self) -> None:
        job = SimulatedJob(make_spec(), idle_pathways=(0, 1, 2))
        report = finished(job)
        assert not report["process"]["pathways"]
        assert report["process"]["logit_losses"]
        assert "3 of 3 pathways earned no weight" in " ".join(report["notes"])

    def test_the_ablations_are_of_the_same_pathways(self) -> None:
        means = accuracy_by_arm(schedule=0.9, constant=0.5, averaged=0.5)
        job = SimulatedJob(make_spec(), accuracy=means, idle_pathways=(1,))
        finished(job)
        found, processes = what_search_found(job.spec, History(job.trials())), proof_processes(job)
        assert {arm for arm, process in processes.items() if process.pathways} == {
            "uniform", "constant", "shuffled", "searched",
        }  # fmt: skip
        for arm in ("uniform", "constant", "shuffled"):
            assert processes[arm].pathways == processes["searched"].pathways
        assert processes["constant"] == held(processes["searched"])
        assert processes["uniform"].points[0].pathway_weights == [0.05, 0.05]
        assert len(found.learned.pathways) == 3

    def test_the_mean_held_is_not_the_end_held(self) -> None:
        """So the arm `constant`, the final weights, is trained of its own."""
        job = SimulatedJob(make_spec(), accuracy=accuracy_by_arm(averaged=0.9, constant=0.5, schedule=0.5))
        report = finished(job)
        assert report["process_kind"] == "averaged"
        processes = proof_processes(job)
        assert processes["constant"] != processes["searched"]
        assert processes["constant"].is_constant

    def test_a_replay_that_failed_is_passed_over(self) -> None:
        job = SimulatedJob(
            make_spec(),
            idle_pathways=(1,),
            failures={StageName.SEARCH: lambda key: key.arm in ("pruned_constant", "averaged")},
        )
        report = finished(job)
        assert {one["arm"] for one in report["replays"]} <= {"pruned_averaged", "pruned_schedule", "schedule"}


class TestLargerWeights:
    """Where losses are judged at constant length the search cannot see how long it had better be."""

    SGD: ClassVar = {"optimizer": "sgd"}

    @pytest.mark.parametrize(
        ("better", "tried", "scale"),
        [
            ({}, ["constant_times_2"], 1),
            ({"constant_times_2": 0.9}, ["constant_times_2", "constant_times_4"], 2),
            (
                {"constant_times_2": 0.9, "constant_times_4": 0.99},
                ["constant_times_2", "constant_times_4"],
                4,
            ),
        ],
    )
    def test_they_are_doubled_as_long_as_that_helps(
        self, better: dict[str, float], tried: list[str], scale: int
    ) -> None:
        means = {"constant": 0.8, "averaged": 0.5, "schedule": 0.5}
        means |= {"constant_times_2": 0.7, "constant_times_4": 0.6, **better}
        job = SimulatedJob(make_spec(training=self.SGD), accuracy=accuracy_by_arm(**means))
        report = finished(job)
        assert [arm for arm in replays(job) if "times" in arm] == tried
        found = what_search_found(job.spec, History(job.trials()))
        assert Process.model_validate(report["process"]) == scaled(held(found.learned), scale)
        assert found.schedule == scaled(found.learned, scale)

    def test_under_adam_their_size_changes_nothing_and_is_not_tried(self) -> None:
        job = SimulatedJob(make_spec(training={"optimizer": "adamw"}))
        finished(job)
        assert not [arm for arm in replays(job) if "times" in arm]

    def test_a_candidate_that_diverged_with_one_seed_is_not_judged_by_the_others(self) -> None:
        means = {"constant": 0.8, "averaged": 0.5, "schedule": 0.5, "constant_times_2": 0.99}
        job = SimulatedJob(
            make_spec(training=self.SGD, search={"replay_seeds": 2}),
            accuracy=accuracy_by_arm(**means),
            failures={StageName.SEARCH: lambda key: key.arm == "constant_times_2" and key.seed == 1},
        )
        report = finished(job)
        assert "constant_times_2" in replays(job)
        assert "constant_times_2" not in {one["arm"] for one in report["replays"]}


class TestReport:
    def test_all_candidates_with_their_figures(self) -> None:
        job = SimulatedJob(make_spec(search={"replay_seeds": 2}), idle_pathways=(1,))
        report = finished(job)
        json.dumps(report, allow_nan=False)
        assert len(report["replays"]) == MOST_EDITS
        assert sum(one["chosen"] for one in report["replays"]) == 1
        accuracies = [one["accuracy"] for one in report["replays"]]
        assert accuracies == sorted(accuracies, reverse=True)
        for one in report["replays"]:
            trials = job.of(StageName.SEARCH, one["arm"])
            assert [trial.key.seed for trial in trials] == [0, 1]
            assert one["accuracies"] == [trial.result["accuracy"] for trial in trials if trial.result]
            assert one["device_seconds"] == pytest.approx(sum(trial.device_seconds for trial in trials))
            assert one["images"] == 200
            assert one["pathways"] == len(process_of(trials[0]).pathways)
        chosen = next(one for one in report["replays"] if one["chosen"])
        assert chosen["kind"] == report["process_kind"]
        assert report["trials"]["replay"] == 2 * MOST_EDITS
        searched = next(arm for arm in report["arms"] if arm["arm"] == "searched")
        assert "2 of 3 pathways" in searched["detail"]


class TestRounds:
    def test_each_begins_where_the_best_so_far_ended(self) -> None:
        def rising(key: TrialKey, parameters: Mapping[str, Any]) -> float:
            return 0.8 + 0.01 * key.index if key.arm == "warm_started" else 0.7

        job = SimulatedJob(make_spec(search={"rounds": 3}), accuracy=rising)
        report = finished(job)
        one, two = job.of(StageName.SEARCH, "warm_started")
        first = best(job.of(StageName.SEARCH, "searched"))
        assert first is not None
        for before, after in ((first, one), (one, two)):
            assert before.result is not None
            mean_of_the_last_third = np.multiply(process_of(before).points[0].pathway_weights, 1 + 5 / 6)
            assert process_of(after).points[0].pathway_weights == pytest.approx(mean_of_the_last_third)
            assert after.parameters["learn"] == before.parameters["learn"]
        assert best_search_trial(job.trials()).key.arm == "warm_started"
        assert report["trials"]["search"] == 4 + 2
        assert process_of(job.of(StageName.PROOF, "uniform")[0]).points[0].pathway_weights == [0.05] * 3

    def test_a_round_that_fails_or_is_worse_is_passed_over(self) -> None:
        worse = SimulatedJob(make_spec(search={"rounds": 2}), accuracy=accuracy_by_arm(warm_started=0.1))
        finished(worse)
        assert best_search_trial(worse.trials()).key.arm == "searched"
        failing = SimulatedJob(
            make_spec(search={"rounds": 2}),
            failures={StageName.SEARCH: lambda key: key.arm == "warm_started"},
        )
        report = finished(failing)
        assert [trial.state for trial in failing.of(StageName.SEARCH, "warm_started")] == [TrialState.FAILED]
        assert report["verdict"]["arm"] == "searched"

    def test_one_round_is_the_default(self) -> None:
        job = SimulatedJob(make_spec())
        finished(job)
        assert not job.of(StageName.SEARCH, "warm_started")


class TestGiven:
    GIVEN = GivenProcess(kd(temperature=3.0, weight=2.0))

    def schedule(self) -> Process:
        job = SimulatedJob(make_spec())
        job.run_to(StageName.TUNING)
        learned = (best_search_trial(job.trials()).result or {})["process"]
        return Process.model_validate(learned)

    def test_it_is_proved_without_a_search(self) -> None:
        given = self.schedule()
        job = SimulatedJob(make_spec(), given=GivenProcess(given))
        report = finished(job)
        assert [trial.key.arm for trial in job.of(StageName.SEARCH)] == ["given"]
        assert report["process_kind"] == "schedule"
        assert report["trials"]["search"] == 0
        processes = proof_processes(job)
        assert set(processes) == set(ARMS)
        assert processes["searched"] == given
        assert processes["constant"] == held(given)
        assert processes["uniform"].points[0].pathway_weights == [0.05] * len(given.pathways)
        assert processes["uniform"].pathways == given.pathways
        assert report["verdict"]["arm"] == "searched"

    def test_kd_is_tuned_by_as_many_trials_as_a_search_may_have(self) -> None:
        job = SimulatedJob(make_spec(budget={"trials": 7}), given=self.GIVEN)
        report = finished(job)
        assert report["trials"]["tuning"] >= 7
        assert any("no search for it is known" in note for note in report["notes"])

    def test_kd_is_tuned_for_as_long_as_the_search_took_elsewhere(self) -> None:
        spec = make_spec(budget={"trials": 1}, resources_per_trial={"cpus": 2.0})
        job = SimulatedJob(spec, given=GivenProcess(self.GIVEN.process, search_device_seconds=40.0))
        report = finished(job)
        tuning = [trial.device_seconds for trial in job.of(StageName.TUNING)]
        assert sum(tuning) >= 40.0 + report["device_seconds"]["search"]
        assert sum(tuning) - max(tuning) < 40.0 + report["device_seconds"]["search"]
        costs = {arm["arm"]: arm["search_device_seconds"] for arm in report["arms"]}
        assert costs["searched"] == pytest.approx(40.0 + report["device_seconds"]["search"])
        assert any("found elsewhere, in 40 device-seconds" in note for note in report["notes"])

    def test_longer_kd_gets_what_the_search_took_elsewhere(self) -> None:
        epochs = [
            finished(SimulatedJob(make_spec(), given=GivenProcess(self.GIVEN.process, seconds)))["arms"]
            for seconds in (1.0, 60.0)
        ]
        shorter, longer = (
            next(arm["epochs"] for arm in arms if arm["arm"] == "longer_kd") for arms in epochs
        )
        assert longer > shorter

    def test_nothing_is_said_of_a_search_that_was_not_wanted(self) -> None:
        notes = finished(SimulatedJob(make_spec(), given=self.GIVEN))["notes"]
        assert not any("The search ended" in note or "best trial" in note for note in notes)

    def test_a_constant_one_has_no_order_in_time_to_ablate(self) -> None:
        job = SimulatedJob(make_spec(), given=self.GIVEN)
        report = finished(job)
        assert {"constant", "shuffled"}.isdisjoint({trial.key.arm for trial in job.of(StageName.PROOF)})
        arms = {arm["arm"]: arm for arm in report["arms"]}
        assert arms["shuffled"]["runs"] == arms["constant"]["runs"] == arms["searched"]["runs"]
        assert arms["shuffled"]["detail"] == "the same runs as the searched process"

    def test_a_process_that_fails_fails_the_job(self) -> None:
        job = SimulatedJob(make_spec(), given=self.GIVEN, failures={StageName.SEARCH: lambda key: True})
        action = job.run()
        assert isinstance(action, Fail)
        assert "replay" in action.message

    def test_a_process_for_other_models_is_refused_before_it_costs_anything(self) -> None:
        deeper = self.schedule().model_dump()
        deeper["pathways"][0]["student_stage"] = 7
        job = SimulatedJob(make_spec(), given=GivenProcess(Process.model_validate(deeper)))
        action = job.run()
        assert isinstance(action, Fail)
        assert action.code == "pathway_does_not_fit"
        assert "stage 7 of the student" in action.message
        assert not job.of(StageName.SEARCH)

    def test_its_budget_is_checked(self) -> None:
        job = SimulatedJob(make_spec(budget={"device_seconds": 5.0}), given=self.GIVEN)
        action = job.run()
        assert isinstance(action, Fail)
        assert action.code == "budget_too_small"


def test_arms_are_the_same_whichever_proof_runs_have_ended() -> None:
    job = SimulatedJob(make_spec(), idle_pathways=(0,))
    job.run_to(StageName.PROOF)
    before = list(ProofRuns(job.spec, History(job.trials())).proposals())
    found = what_search_found(job.spec, History(job.trials()))
    finished(job)
    assert list(ProofRuns(job.spec, History(job.trials())).proposals()) == before
    assert {proposal.key.arm for proposal in before} == set(arms_to_run(job.spec, found))
    assert searched_run(job.spec, job.trials()) == RunParameters.model_validate(
        next(proposal.parameters for proposal in before if proposal.key.arm == "searched")
    )
