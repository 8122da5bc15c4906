"""What the search proposes, how many at once, and that every proposal can be made again from the records."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from search.plan import next_trials
from search.planning.arms import dimensions_of
from search.planning.exploration import UNFINISHED
from search.records import (
    Fail,
    Finish,
    RunParameters,
    StageName,
    Start,
    TrialKey,
    TrialRecord,
    TrialState,
    Wait,
)
from tests.search.planning.simulated_job import (
    SimulatedJob,
    accuracy_by_arm,
    make_spec,
    noise,
    preflight_result,
    run_result,
    stages,
)

RECORDS = TypeAdapter(list[TrialRecord])


def searched_to_the_end(**changes: object) -> SimulatedJob:
    job = SimulatedJob(make_spec(**changes))
    job.run_to(StageName.TUNING)
    return job


class TestProposals:
    def test_the_first_one_is_the_sensible_default(self) -> None:
        space = {"process_learning_rate": {"low": 0.02, "high": 0.08}}
        spec = make_spec(search={"space": space})
        proposal, *_ = SimulatedJob(spec).run_to(StageName.SEARCH).proposals
        run = RunParameters.model_validate(proposal.parameters)
        assert run.choices["connections"] == "same_depth"
        assert run.choices["transforms"] == ["projection"]
        assert run.choices["distances"] == ["mse"]
        assert run.choices["logit_losses"] == ["kd"]
        assert run.choices["process_learning_rate"] == pytest.approx(0.04)
        assert run.choices[UNFINISHED] == []

    def test_a_trial_starts_from_the_settings_of_the_spec(self) -> None:
        process = {
            "normalisation": "biased_softmax",
            "initial_pathway_weight": 0.2,
            "initial_logit_weight": 0.7,
            "initial_temperature": 3.0,
            "learn_temperatures": False,
            "meta_batch_size": 16,
            "record_points": 5,
        }
        spec = make_spec(search={"process": process, "space": {"update_every_steps": [3]}})
        proposal, *_ = SimulatedJob(spec).run_to(StageName.SEARCH).proposals
        run = RunParameters.model_validate(proposal.parameters)
        assert run.epochs == 4
        assert run.splits == "search"
        assert run.process.cross_entropy_weight == 1.0
        (point,) = run.process.points
        assert point.pathway_weights == [0.2] * len(run.process.pathways)
        assert point.logit_weights == [0.7]
        assert point.teacher_temperatures == point.student_temperatures == [3.0]
        assert run.learn is not None
        assert run.learn.normalisation == "biased_softmax"
        assert not run.learn.learn_temperatures
        assert run.learn.meta_batch_size == 16
        assert run.learn.record_points == 5
        assert run.learn.update_every_steps == 3

    def test_pathways_come_from_the_stages_that_preflight_found(self) -> None:
        job = SimulatedJob(make_spec(), preflight=preflight_result(student_stages=stages(4, 8)))
        proposal, *_ = job.run_to(StageName.SEARCH).proposals
        pathways = RunParameters.model_validate(proposal.parameters).process.pathways
        assert [pathway.name for pathway in pathways] == ["t0-s0/projection/mse", "t2-s1/projection/mse"]

    def test_a_choice_of_transforms_and_of_logit_losses_is_a_set(self) -> None:
        space = {
            "connections": ["last"],
            "transforms": [["projection", "gated"]],
            "distances": [["mse", "hcl"]],
            "logit_losses": [["kd", "dist"]],
        }
        proposal, *_ = SimulatedJob(make_spec(search={"space": space})).run_to(StageName.SEARCH).proposals
        process = RunParameters.model_validate(proposal.parameters).process
        methods = {(pathway.transform, pathway.distance) for pathway in process.pathways}
        assert len(process.pathways) == len(methods) == 2 * 2
        assert [loss.name for loss in process.logit_losses] == ["kd", "dist"]
        (point,) = process.points
        assert point.logit_weights == [1.0, 1.0]
        assert point.teacher_temperatures == point.student_temperatures == [2.0, 2.0]

    def test_without_connections_the_logits_alone_teach(self) -> None:
        space = {"connections": ["none"], "transforms": [["projection"], ["gated"]]}
        job = searched_to_the_end(search={"space": space})
        for trial in job.of(StageName.SEARCH, "searched"):
            process = RunParameters.model_validate(trial.parameters).process
            assert not process.pathways
            assert [loss.name for loss in process.logit_losses] == ["kd"]

    @pytest.mark.parametrize("strategy", ["tpe", "random"])
    @pytest.mark.parametrize(
        "space",
        [
            {"connections": ["none", "last"], "logit_losses": [[], ["kd"]]},
            {"connections": ["none", "same_depth", "all"], "logit_losses": [[]]},
            {"transforms": [["identity"], ["projection"]], "distances": [["mse"]], "logit_losses": [[]]},
        ],
    )
    def test_no_trial_distils_nothing(self, strategy: str, space: dict[str, object]) -> None:
        """The widths differ, so that `identity` has no pathway; proposals stay inside the space."""
        job = searched_to_the_end(search={"space": space, "strategy": strategy}, budget={"trials": 12})
        trials = job.of(StageName.SEARCH, "searched")
        assert len(trials) == 12
        for trial in trials:
            process = RunParameters.model_validate(trial.parameters).process
            assert process.pathways or process.logit_losses
            for dimension in dimensions_of(job.spec):
                assert dimension.contains(trial.parameters["choices"][dimension.name])

    @pytest.mark.parametrize("strategy", ["tpe", "random"])
    def test_all_of_them_lie_in_the_space(self, strategy: str) -> None:
        job = searched_to_the_end(search={"strategy": strategy}, budget={"trials": 12})
        trials = job.of(StageName.SEARCH, "searched")
        assert [trial.key.index for trial in trials] == list(range(12))
        for trial in trials:
            for dimension in dimensions_of(job.spec):
                assert dimension.contains(trial.parameters["choices"][dimension.name])

    @pytest.mark.parametrize("strategy", ["tpe", "random"])
    def test_each_can_be_made_again_from_what_is_recorded(self, strategy: str) -> None:
        job = searched_to_the_end(
            search={"strategy": strategy, "concurrent_trials": 3}, budget={"trials": 10}
        )
        trials = job.of(StageName.SEARCH, "searched")
        for trial in trials[1:]:
            unfinished = trial.parameters["choices"][UNFINISHED]
            earlier = [
                replace(other, state=TrialState.RUNNING, result=None)
                if other.key.index in unfinished
                else other
                for other in trials
                if other.key.index < trial.key.index
            ]
            known = [*job.of(StageName.TEACHER), *job.of(StageName.PREFLIGHT), *earlier]
            action = next_trials(job.spec, known)
            assert isinstance(action, Start)
            assert action.proposals[0].key == trial.key
            assert action.proposals[0].parameters == trial.parameters

    @pytest.mark.parametrize("strategy", ["tpe", "random"])
    def test_every_dimension_is_searched_and_survives_storage(self, strategy: str) -> None:
        """Records go through JSON, as they do through a database; each value is proposed and carried out."""
        space = {
            "connections": ["last", [[0, 0], [1, 2]], "none"],
            "transforms": [["projection"], ["projection", "identity"]],
            "distances": [["mse"], ["attention", "mse"]],
            "logit_losses": [["kd"], ["kd", "dist"], []],
            "taps": ["output", "pre_activation"],
            "update_every_steps": [1, 4],
        }
        spec = make_spec(
            search={"space": space, "strategy": strategy, "pruning": {"enabled": False}},
            budget={"trials": 24},
        )
        job = SimulatedJob(spec)
        while not isinstance(job.ask(), Finish) and not job.of(StageName.TUNING):
            job.step()
            stored = RECORDS.validate_json(RECORDS.dump_json(list(job.records.values())))
            job.records = {record.key: record for record in stored}
        trials = job.of(StageName.SEARCH, "searched")
        chosen = {name: [trial.parameters["choices"][name] for trial in trials] for name in space}
        for name, values in space.items():
            assert all(value in chosen[name] for value in values), name
        assert len({trial.parameters["choices"]["process_learning_rate_factor"] for trial in trials}) > 10
        for trial in trials:
            run, choices = RunParameters.model_validate(trial.parameters), trial.parameters["choices"]
            assert run.learn is not None
            assert run.learn.update_every_steps == choices["update_every_steps"]
            factor = choices["process_learning_rate_factor"]
            assert run.learn.learning_rate == pytest.approx(0.1 * factor)
            assert run.process.taps == choices["taps"]
            assert [loss.name for loss in run.process.logit_losses] == choices["logit_losses"]
            assert {pathway.distance for pathway in run.process.pathways} <= set(choices["distances"])
            assert {pathway.transform for pathway in run.process.pathways} <= set(choices["transforms"])
            pairs = {(pathway.teacher_stage, pathway.student_stage) for pathway in run.process.pathways}
            expected = {"last": {(2, 2)}, "none": set()}
            listed = choices["connections"]
            assert pairs == (
                expected[listed] if isinstance(listed, str) else {tuple(pair) for pair in listed}
            )

    def test_another_seed_searches_elsewhere(self) -> None:
        one, other = (searched_to_the_end(search={"seed": seed}) for seed in (0, 1))
        assert one.of(StageName.SEARCH)[-1].parameters != other.of(StageName.SEARCH)[-1].parameters

    def test_tpe_goes_where_it_is_good(self) -> None:
        """A space of 2 x 8 transforms and distances of which one in four pays: TPE finds it more often."""
        sets = [[f"plugin_{index}"] for index in range(8)]

        def hits(strategy: str) -> int:
            job = SimulatedJob(
                make_spec(
                    search={
                        "strategy": strategy,
                        "concurrent_trials": 1,
                        "space": {"transforms": sets},
                        "pruning": {"enabled": False},
                    },
                    budget={"trials": 40},
                ),
                accuracy=lambda key, parameters: (
                    0.5 + 0.3 * (parameters["choices"].get("transforms") == sets[5]) + 0.01 * noise(key)
                ),
            )
            job.run_to(StageName.TUNING)
            trials = job.of(StageName.SEARCH, "searched")
            return sum(trial.parameters["choices"]["transforms"] == sets[5] for trial in trials)

        assert hits("tpe") >= 2 * max(hits("random"), 1)


class TestConcurrency:
    @pytest.mark.parametrize("at_once", [1, 2, 5])
    def test_as_many_as_the_spec_allows(self, at_once: int) -> None:
        job = SimulatedJob(make_spec(search={"concurrent_trials": at_once}))
        start = job.run_to(StageName.SEARCH)
        assert len(start.proposals) == min(at_once, 4)
        if at_once < 4:
            job.records = {
                key: replace(trial, state=TrialState.RUNNING, result=None, curve=())
                if key.stage is StageName.SEARCH
                else trial
                for key, trial in job.records.items()
            }
            assert job.ask() == Wait()

    def test_what_was_proposed_but_not_started_counts(self) -> None:
        job = SimulatedJob(make_spec())
        start = job.run_to(StageName.SEARCH)
        for proposal in start.proposals:
            job.records[proposal.key] = TrialRecord(proposal.key, TrialState.PROPOSED, proposal.parameters)
        assert job.ask() == Wait()

    def test_a_freed_place_is_filled(self) -> None:
        job = SimulatedJob(make_spec())
        start = job.run_to(StageName.SEARCH)
        for proposal in start.proposals:
            job.records[proposal.key] = TrialRecord(proposal.key, TrialState.RUNNING, proposal.parameters)
        trial = job.records[start.proposals[1].key]
        job.records[trial.key] = replace(trial, state=TrialState.COMPLETED, result=run_result(trial, 0.5))
        action = job.ask()
        assert isinstance(action, Start)
        (proposal,) = action.proposals
        assert proposal.key.index == 2
        assert proposal.parameters["choices"][UNFINISHED] == [0]

    def test_replays_follow_one_by_one_if_need_be(self) -> None:
        job = SimulatedJob(make_spec(search={"concurrent_trials": 1}))
        job.run_to(StageName.TUNING)
        replays = [trial for trial in job.of(StageName.SEARCH) if trial.key.arm != "searched"]
        assert {trial.key.arm for trial in replays} == {"schedule", "averaged", "constant"}
        assert all(trial.parameters["learn"] is None for trial in replays)
        assert all(trial.parameters["splits"] == "search" for trial in replays)


class TestPurity:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        seed=st.integers(0, 10**6),
        at_once=st.integers(1, 4),
        trials=st.integers(1, 6),
        failing=st.sets(st.integers(0, 5)),
        broken_arm=st.sampled_from([None, "searched", "tuned_kd", "uniform", "longer_kd"]),
        limit=st.sampled_from([None, 200.0, 600.0]),
        strategy=st.sampled_from(["tpe", "random"]),
        rounds=st.integers(1, 3),
        replay_seeds=st.integers(1, 2),
        idle=st.sets(st.integers(0, 2)),
    )
    def test_any_job_ends_and_no_order_of_records_matters(
        self,
        seed: int,
        at_once: int,
        trials: int,
        failing: set[int],
        broken_arm: str | None,
        limit: float | None,
        strategy: str,
        rounds: int,
        replay_seeds: int,
        idle: set[int],
    ) -> None:
        search = {"rounds": rounds, "replay_seeds": replay_seeds, "strategy": strategy}
        spec = make_spec(
            budget={"trials": trials, "device_seconds": limit},
            search={**search, "concurrent_trials": at_once},
            proof={"seeds": [0, 1]},
        )
        job = SimulatedJob(
            spec,
            accuracy=lambda key, parameters: 0.6 + 0.2 * noise(seed, key),
            failures={
                StageName.SEARCH: lambda key: key.arm == "searched" and key.index in failing,
                StageName.TUNING: lambda key: key.index in failing,
                StageName.PROOF: lambda key: key.arm == broken_arm,
            },
            idle_pathways=tuple(sorted(idle)),
            seed=seed,
        )
        for _ in range(2000):
            before = job.ask()
            assert job.ask() == before, "another order of records, another action"
            if isinstance(job.step(), Finish | Fail):
                break
        else:
            pytest.fail("the job does not end")
        tuned_all_failed = all(trial.state is TrialState.FAILED for trial in job.of(StageName.TUNING))
        is_hopeless = failing >= set(range(trials)) or (job.of(StageName.TUNING) and tuned_all_failed)
        assert isinstance(job.actions[-1], Fail) == bool(is_hopeless)

    def test_a_new_driver_goes_on_where_the_old_one_stood(self) -> None:
        """Two runs of one job, the second with every question asked twice: the same trials."""
        one, two = (SimulatedJob(make_spec(), seed=3) for _ in range(2))
        one.run()
        while not isinstance(two.actions[-1] if two.actions else None, Finish):
            assert two.ask() == two.ask()
            two.step()
        assert one.records == two.records

    def test_records_are_not_changed(self) -> None:
        job = SimulatedJob(make_spec(), accuracy=accuracy_by_arm())
        job.run()
        before = {key: repr(trial) for key, trial in job.records.items()}
        job.ask()
        assert {key: repr(trial) for key, trial in job.records.items()} == before

    def test_200_trials_take_less_than_a_second(self) -> None:
        job = SimulatedJob(make_spec(budget={"trials": 400, "epochs_per_trial": 20}))
        job.run_to(StageName.SEARCH)
        (template, *_) = job.of(StageName.SEARCH)
        for index in range(200):
            key = TrialKey(StageName.SEARCH, "searched", 0, index)
            factor = 0.4 + 0.01 * index
            choices = {**template.parameters["choices"], "process_learning_rate_factor": factor}
            trial = replace(template, key=key, parameters={**template.parameters, "choices": choices})
            result = run_result(trial, 0.5 + 0.1 * noise(index))
            job.records[key] = replace(trial, state=TrialState.COMPLETED, result=result, curve=())
        job.ask()  # the first call pays for importing Optuna
        started = time.perf_counter()
        action = job.ask()
        assert time.perf_counter() - started < 1.0
        assert isinstance(action, Start)
        assert [proposal.key.index for proposal in action.proposals] == [200, 201]


def test_stages_of_the_simulation_are_those_of_a_model() -> None:
    assert [stage.depth for stage in stages(8, 16, 32)] == [0.0, 0.5, 1.0]
