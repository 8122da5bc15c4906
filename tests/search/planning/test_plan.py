"""The plan from the first trial to the report: every stage, every way to end."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from search.dimensions import starting_choices
from search.plan import best_search_trial, next_trials, searched_run, teacher_proposal
from search.planning.arms import ArmName, dimensions_of, search_run
from search.planning.history import History
from search.planning.process_shapes import held
from search.planning.proof_runs import ProofRuns
from search.recipe import Process
from search.records import (
    ExportParameters,
    Fail,
    Finish,
    PreflightResult,
    RunParameters,
    StageName,
    Start,
    TrialKey,
    TrialRecord,
    TrialState,
    Wait,
)
from search.spec import ARMS
from tests.search.planning.simulated_job import (
    SimulatedJob,
    accuracy_by_arm,
    finished,
    make_spec,
    preflight_result,
)


def test_the_plan_needs_no_torch() -> None:
    code = "import sys, search.plan; print(sorted({'torch', 'timm', 'ray', 'optuna'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


class TestOrder:
    def test_stages_follow_one_another(self) -> None:
        job = SimulatedJob(make_spec())
        finished(job)
        starts = [action for action in job.actions if isinstance(action, Start)]
        order = [proposal.key.stage for start in starts for proposal in start.proposals]
        assert sorted(order, key=list(StageName).index) == order
        assert set(order) == set(StageName)

    def test_the_first_trial_is_the_teacher(self) -> None:
        spec = make_spec(teachers=[{"model": "test_resnet", "training": {"seed": 7}}])
        action = next_trials(spec, [])
        assert action == Start((teacher_proposal(spec),))
        assert teacher_proposal(spec).key == TrialKey(StageName.TEACHER, "teacher", 7, 0)

    @pytest.mark.parametrize("weights", ["pretrained", "untrained", "teacher.safetensors"])
    def test_a_given_teacher_is_a_trial_too(self, weights: str) -> None:
        action = next_trials(make_spec(teachers=[{"model": "test_resnet", "weights": weights}]), [])
        assert isinstance(action, Start)
        assert action.proposals[0].key.stage is StageName.TEACHER

    def test_it_waits_while_a_trial_runs(self) -> None:
        job = SimulatedJob(make_spec())
        for stage in (StageName.TEACHER, StageName.PREFLIGHT, StageName.EXPORT):
            (proposal,) = job.run_to(stage).proposals
            proposed = replace(job.records[proposal.key], state=TrialState.PROPOSED, result=None)
            job.records[proposal.key] = proposed
            assert job.ask() == Wait()

    def test_a_dry_run_ends_after_preflight_and_trains_no_teacher(self) -> None:
        job = SimulatedJob(make_spec(), dry_run=True)
        assert job.run() == Finish(None)
        assert [key.stage for key in job.records] == [StageName.PREFLIGHT]

    def test_a_dry_run_loads_a_given_teacher(self) -> None:
        spec = make_spec(teachers=[{"model": "test_resnet", "weights": "pretrained"}])
        job = SimulatedJob(spec, dry_run=True)
        assert job.run() == Finish(None)
        assert [key.stage for key in job.records] == [StageName.TEACHER, StageName.PREFLIGHT]

    def test_a_cancelled_trial_counts_as_not_having_run(self) -> None:
        spec = make_spec()
        job = SimulatedJob(spec)
        job.run_to(StageName.SEARCH)
        before = next_trials(spec, [])
        assert isinstance(before, Start)
        key = before.proposals[0].key
        cancelled = replace(job.records[key], state=TrialState.CANCELLED, result=None)
        assert next_trials(spec, [cancelled]) == before


class TestFailure:
    @pytest.mark.parametrize("stage", [StageName.TEACHER, StageName.PREFLIGHT, StageName.EXPORT])
    def test_a_stage_of_one_trial_fails_the_job_in_its_own_words(self, stage: StageName) -> None:
        job = SimulatedJob(make_spec(), failures={stage: lambda key: True})
        action = job.run()
        assert isinstance(action, Fail)
        assert action.code == "nan"
        assert action.message.startswith("loss became nan in " + stage)

    def test_a_trial_that_ends_without_a_reason_still_fails_the_job(self) -> None:
        spec = make_spec()
        job = SimulatedJob(spec)
        key = teacher_proposal(spec).key
        job.start(teacher_proposal(spec))
        job.records[key] = replace(job.records[key], state=TrialState.FAILED)
        action = job.ask()
        assert isinstance(action, Fail)
        assert action.code == "internal"

    def test_all_search_trials_failed(self) -> None:
        job = SimulatedJob(make_spec(), failures={StageName.SEARCH: lambda key: key.arm == "searched"})
        action = job.run()
        assert isinstance(action, Fail)
        assert action.code == "nan"
        assert action.message.startswith("search: none of 4 trials completed; the first error: loss became")

    def test_both_replays_failed(self) -> None:
        job = SimulatedJob(make_spec(), failures={StageName.SEARCH: lambda key: key.arm != "searched"})
        action = job.run()
        assert isinstance(action, Fail)
        assert "replay" in action.message

    def test_some_search_trials_failed(self) -> None:
        fails = {StageName.SEARCH: lambda key: key.arm == "searched" and key.index in (0, 2)}
        job = SimulatedJob(make_spec(), failures=fails)
        report = finished(job)
        assert best_search_trial(list(job.records.values())).key.index in (1, 3)
        assert "2 trials of the search failed" in " ".join(map(str, report["notes"]))
        assert len(job.of(StageName.SEARCH, "searched")) == 4

    def test_the_student_alone_is_needed(self) -> None:
        job = SimulatedJob(make_spec(), failures={StageName.PROOF: lambda key: key.arm == "student_alone"})
        action = job.run()
        assert isinstance(action, Fail)
        assert action.code == "nan"
        assert "the student alone could not be trained" in action.message

    def test_an_unknown_strategy_fails_after_preflight(self) -> None:
        action = SimulatedJob(make_spec(search={"strategy": "no_such"})).run()
        assert isinstance(action, Fail)
        assert action.code == "unknown_method"
        assert "tpe" in action.message

    def test_a_space_without_any_fitting_pathway_fails_after_preflight(self) -> None:
        space = {"transforms": [["identity"]], "distances": [["mse"]]}
        action = SimulatedJob(make_spec(search={"space": space})).run()
        assert isinstance(action, Fail)
        assert action.code == "no_pathway_fits"
        assert "'identity' keeps the student's" in action.message

    def test_nothing_to_distil_at_all_fails_after_preflight(self) -> None:
        space = {"connections": ["none", "last"], "logit_losses": [[]]}
        action = SimulatedJob(
            make_spec(search={"space": space}), preflight=preflight_result(student_stages=[])
        ).run()
        assert isinstance(action, Fail)
        assert action.code == "no_pathway_fits"
        assert "search.space.logit_losses" in action.message

    @pytest.mark.parametrize(
        ("connections", "logit_losses", "is_refused"),
        [
            (["none", "last"], [["kd"]], False),
            (["none", "last"], [[]], True),
            (["last"], [["kd"]], True),
        ],
    )
    def test_pathways_that_do_not_fit_are_no_fault_where_the_logits_may_teach_alone(
        self, connections: list[str], logit_losses: list[list[str]], is_refused: bool
    ) -> None:
        space = {"connections": connections, "transforms": [["identity"]], "distances": [["mse"]]}
        action = SimulatedJob(make_spec(search={"space": {**space, "logit_losses": logit_losses}})).run()
        assert isinstance(action, Fail if is_refused else Finish)

    def test_models_without_stages_search_the_logit_loss_alone(self) -> None:
        job = SimulatedJob(make_spec(), preflight=preflight_result(student_stages=[]))
        report = finished(job)
        assert "no pathways" in " ".join(map(str, report["notes"]))
        assert not job.of(StageName.SEARCH)[0].parameters["process"]["pathways"]


class TestProof:
    def test_every_arm_runs_with_every_seed_on_the_proof_splits(self) -> None:
        spec = make_spec(proof={"seeds": [3, 1, 2], "epochs": 5})
        job = SimulatedJob(spec, accuracy=accuracy_by_arm(constant=0.5))
        finished(job)
        keys = {(trial.key.arm, trial.key.seed) for trial in job.of(StageName.PROOF)}
        assert keys == {(arm, seed) for arm in ARMS for seed in (1, 2, 3)}
        for trial in job.of(StageName.PROOF):
            run = RunParameters.model_validate(trial.parameters)
            assert run.splits == "proof"
            assert run.learn is None
            assert run.epochs == 5 or trial.key.arm == "longer_kd"

    def test_it_fills_the_room_and_waits(self) -> None:
        job = SimulatedJob(make_spec())
        start = job.run_to(StageName.PROOF)
        assert len(start.proposals) == 2
        for proposal in start.proposals:
            job.records[proposal.key] = TrialRecord(proposal.key, TrialState.RUNNING, proposal.parameters)
        assert job.ask() == Wait()

    def test_only_the_arms_of_the_spec_run(self) -> None:
        arms = ["student_alone", "tuned_kd", "searched"]
        job = SimulatedJob(make_spec(proof={"arms": arms}))
        report = finished(job)
        assert {trial.key.arm for trial in job.of(StageName.PROOF)} == set(arms)
        assert [arm["arm"] for arm in report["arms"]] == arms
        assert report["verdict"]["longer_sentence"] is None

    def test_the_processes_of_the_arms(self) -> None:
        job = SimulatedJob(make_spec(), accuracy=accuracy_by_arm(schedule=0.9, constant=0.5))
        finished(job)
        best = best_search_trial(list(job.records.values()))
        assert best.result is not None
        learned = Process.model_validate(best.result["process"])
        process = {
            trial.key.arm: Process.model_validate(trial.parameters["process"])
            for trial in job.of(StageName.PROOF)
            if trial.key.seed == 0
        }
        assert process[ArmName.SEARCHED] == learned
        assert process[ArmName.CONSTANT] == held(learned)
        assert process[ArmName.UNIFORM] == Process.model_validate(best.parameters["process"])
        assert not process[ArmName.STUDENT_ALONE].logit_losses
        assert not process[ArmName.STUDENT_ALONE].pathways
        assert process[ArmName.PLAIN_KD].cross_entropy_weight == 0.1
        assert process[ArmName.PLAIN_KD].points[0].logit_weights == [0.9]
        assert process[ArmName.PLAIN_KD].points[0].teacher_temperatures == [4.0]
        assert process[ArmName.LONGER_KD] == process[ArmName.TUNED_KD]
        assert process[ArmName.SHUFFLED] != learned
        points = [point.model_dump(exclude={"progress"}) for point in process[ArmName.SHUFFLED].points]
        for point in learned.points:
            points.remove(point.model_dump(exclude={"progress"}))
        assert points == []

    def test_the_better_replay_on_validation_is_the_searched_arm(self) -> None:
        for kind, other in (("schedule", "constant"), ("constant", "schedule")):
            accuracy = accuracy_by_arm(**{kind: 0.9, other: 0.5})
            job = SimulatedJob(make_spec(), accuracy=accuracy)
            job.run_to(StageName.TUNING)
            run = searched_run(job.spec, list(job.records.values()))
            assert run.process.is_constant == (kind == "constant")
            assert run.splits == "proof"

    def test_of_equal_replays_the_constant_one_is_taken(self) -> None:
        job = SimulatedJob(make_spec(), accuracy=lambda key, parameters: 0.7)
        job.run_to(StageName.TUNING)
        assert searched_run(job.spec, list(job.records.values())).process.is_constant

    def test_a_failed_replay_leaves_the_other(self) -> None:
        job = SimulatedJob(
            make_spec(),
            failures={StageName.SEARCH: lambda key: key.arm != "searched" and key.arm != "schedule"},
        )
        job.run_to(StageName.TUNING)
        assert not searched_run(job.spec, list(job.records.values())).process.is_constant

    def test_the_constant_arm_is_not_trained_twice(self) -> None:
        job = SimulatedJob(make_spec(), accuracy=accuracy_by_arm(schedule=0.5, constant=0.9))
        report = finished(job)
        assert not job.of(StageName.PROOF, "constant")
        runs = {arm["arm"]: arm["runs"] for arm in report["arms"]}
        assert runs["constant"] == runs["searched"]
        assert "`constant` shows the same runs" in " ".join(map(str, report["notes"]))

    def test_an_arm_with_a_failed_run_is_given_up(self) -> None:
        job = SimulatedJob(
            make_spec(search={"concurrent_trials": 1}),
            accuracy=accuracy_by_arm(constant=0.5),
            failures={StageName.PROOF: lambda key: key.arm == "searched" and key.seed == 0},
        )
        report = finished(job)
        assert len(job.of(StageName.PROOF, "searched")) == 1
        assert report["verdict"]["arm"] == "plain_kd"
        arm = next(arm for arm in report["arms"] if arm["arm"] == "searched")
        assert arm["mean"] is None
        assert arm["failed"].startswith("seed 0: loss became nan")
        assert not [d for d in report["differences"] if d["arm"] == "searched"]

    def test_helpers_refuse_a_job_that_found_nothing(self) -> None:
        with pytest.raises(ValueError, match="no search trial has completed"):
            best_search_trial([])
        with pytest.raises(ValueError, match="no search trial has completed"):
            searched_run(make_spec(), [])
        job = SimulatedJob(make_spec())
        job.run_to(StageName.TUNING)
        before_tuning = [trial for trial in job.records.values() if trial.key.stage is not StageName.TUNING]
        with pytest.raises(ValueError, match="no tuning trial has completed"):
            ProofRuns(job.spec, History(before_tuning))

    @pytest.mark.parametrize("wrong", [{"distances": "mse"}, {"process_learning_rate": "fast"}])
    def test_choices_of_a_wrong_type_are_refused(self, wrong: dict[str, Any]) -> None:
        job = SimulatedJob(make_spec())
        job.run_to(StageName.SEARCH)
        choices = {**starting_choices(dimensions_of(job.spec)), **wrong}
        with pytest.raises(TypeError, match=r"expected a (list|number), found '(mse|fast)'"):
            search_run(job.spec, choices, PreflightResult.model_validate(job.preflight))


class TestVerdictAndExport:
    @pytest.mark.parametrize(
        ("means", "verdict", "proof_arm"),
        [
            ({}, "searched", "searched"),
            ({"searched": 0.60}, "plain_kd", "tuned_kd"),
            ({"searched": 0.60, "tuned_kd": 0.60}, "student_alone", "student_alone"),
            ({"student_alone": 0.72, "tuned_kd": 0.60, "searched": 0.68}, "student_alone", "student_alone"),
        ],
    )
    def test_all_three_verdicts(self, means: dict[str, float], verdict: str, proof_arm: str) -> None:
        job = SimulatedJob(make_spec(), accuracy=accuracy_by_arm(**means))
        report = finished(job)
        assert report["verdict"]["arm"] == verdict
        assert report["verdict"]["proof_arm"] == proof_arm
        (export,) = job.of(StageName.EXPORT)
        exported = ExportParameters.model_validate(export.parameters)
        assert exported.arm == proof_arm
        assert exported.seed == job.spec.proof.seeds[0]
        winner = job.records[TrialKey(StageName.PROOF, proof_arm, exported.seed, 0)]
        assert exported.run == RunParameters.model_validate(winner.parameters)
        assert exported.report == report

    def test_the_report_is_finite_json_with_the_agreed_parts(self) -> None:
        report = finished(SimulatedJob(make_spec(), accuracy=accuracy_by_arm(constant=0.5)))
        json.dumps(report, allow_nan=False)
        assert report.keys() >= {
            "verdict", "arms", "differences", "device_seconds", "teacher", "stopped_early", "trials",
            "process", "test_images", "epochs", "notes",
        }  # fmt: skip
        assert report["verdict"].keys() == {
            "arm", "proof_arm", "process_kind", "sentence", "longer_sentence",
        }  # fmt: skip
        pairs = {(d["arm"], d["baseline"]) for d in report["differences"]}
        others = {"tuned_kd", "plain_kd", "student_alone", "longer_kd", "uniform", "constant", "shuffled"}
        assert pairs == {("searched", other) for other in others} | {("tuned_kd", "student_alone")}

    def test_the_report_adds_up(self) -> None:
        job = SimulatedJob(make_spec(resources_per_trial={"cpus": 2.0}))
        report = finished(job)
        spent = report["device_seconds"]
        assert isinstance(spent, dict)
        for stage in StageName:
            if stage is not StageName.EXPORT:
                expected = sum(trial.device_seconds for trial in job.of(stage))
                assert spent[stage] == pytest.approx(expected)
        assert spent["total"] == pytest.approx(sum(v for k, v in spent.items() if k != "total"))
        searched = len(job.of(StageName.SEARCH, "searched"))
        assert report["trials"] == {
            "search": searched,
            "replay": 3,
            "tuning": len(job.of(StageName.TUNING)),
            "proof": len(job.of(StageName.PROOF)),
        }
        arms = {arm["arm"]: arm for arm in report["arms"]}
        assert arms["searched"]["search_device_seconds"] == spent["search"]
        assert arms["tuned_kd"]["search_device_seconds"] == spent["tuning"]
        assert arms["plain_kd"]["search_device_seconds"] == 0
        assert report["test_images"] == 997
        assert report["epochs"] == 4
        stopped = [trial for trial in job.records.values() if trial.state is TrialState.STOPPED_EARLY]
        assert report["stopped_early"] == len(stopped)

    def test_figures_are_those_of_the_runs(self) -> None:
        job = SimulatedJob(make_spec())
        report = finished(job)
        for arm in report["arms"]:
            for run in arm["runs"]:
                is_shared = arm["arm"] == "constant" and not job.of(StageName.PROOF, "constant")
                name = "searched" if is_shared else arm["arm"]
                record = job.records[TrialKey(StageName.PROOF, name, run["seed"], 0)]
                assert record.result is not None
                assert run["accuracy"] == record.result["accuracy"]
