"""What runs cost: predicted by preflight, then measured by the job's own trials."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from search.planning.costs import Costs, RunKind, devices_per_trial, wall_seconds
from search.planning.history import History
from search.records import Fail, PreflightResult, StageName
from search.spec import JobSpec
from tests.search.planning.simulated_job import (
    SECONDS_PER_STEP,
    START_SECONDS,
    STEPS_PER_EPOCH,
    SimulatedJob,
    make_spec,
    preflight_result,
    run_seconds,
)
from tests.search.planning.test_plan_budget import EPOCHS, WITHOUT_LONGER, run_of


class TestCosts:
    def spec_and_preflight(self, **changes: Any) -> tuple[JobSpec, PreflightResult]:
        job = SimulatedJob(make_spec(**changes))
        return job.spec, PreflightResult.model_validate(job.preflight)

    def test_before_any_trial_they_are_preflights(self) -> None:
        costs = Costs(*self.spec_and_preflight(), History([]))
        for kind in RunKind:
            for splits in ("search", "proof"):
                assert costs.predicted_run(run_of(kind, splits)) == pytest.approx(
                    run_seconds(run_of(kind, splits))
                )

    def test_rarer_updates_cost_less(self) -> None:
        costs = Costs(*self.spec_and_preflight(), History([]))
        every, second, never = (
            costs.predicted(RunKind.SEARCH, splits="search", epochs=1, update_every_steps=steps)
            for steps in (1, 2, 10**9)
        )
        pathways = costs.predicted(RunKind.PATHWAYS, splits="search", epochs=1)
        assert second == pytest.approx((every + pathways) / 2)
        assert never == pytest.approx(pathways)

    def test_afterwards_they_are_the_trials_own(self) -> None:
        job = SimulatedJob(make_spec(resources_per_trial={"cpus": 3.0}), slowness=2.0)
        job.run_to(StageName.PROOF)
        costs = Costs(job.spec, PreflightResult.model_validate(job.preflight), History(job.records.values()))
        run = run_of(RunKind.KD, "search")
        assert costs.predicted_run(run) == pytest.approx(2 * run_seconds(run))

    def test_what_caching_the_teacher_took_is_no_part_of_a_run(self) -> None:
        job = SimulatedJob(make_spec())
        job.run_to(StageName.PROOF)
        plain = Costs(job.spec, PreflightResult.model_validate(job.preflight), History(job.records.values()))
        records = [
            replace(
                trial, device_seconds=trial.device_seconds + 7, result={**trial.result, "cache_seconds": 7.0}
            )
            if trial.result and "seconds" in trial.result
            else trial
            for trial in job.records.values()
        ]
        costs = Costs(job.spec, PreflightResult.model_validate(job.preflight), History(records))
        for kind in RunKind:
            run = run_of(kind, "proof")
            assert costs.predicted_run(run) == pytest.approx(plain.predicted_run(run))

    def test_epochs_that_fit(self) -> None:
        costs = Costs(*self.spec_and_preflight(), History([]))
        one = costs.predicted(RunKind.KD, splits="proof", epochs=1)
        five = costs.predicted(RunKind.KD, splits="proof", epochs=5)
        assert costs.epochs_for(five, RunKind.KD, splits="proof") == 5
        assert costs.epochs_for(five * 0.999, RunKind.KD, splits="proof") == 4
        assert costs.epochs_for(one * 0.999, RunKind.KD, splits="proof") == 0
        assert one == pytest.approx(START_SECONDS + 0.02 * 20)

    @pytest.mark.parametrize(("gpus", "cpus", "devices"), [(0.0, 3.0, 3.0), (0.5, 3.0, 0.5), (1.0, 4.0, 1.0)])
    def test_devices_are_gpus_or_else_cpu_cores(self, gpus: float, cpus: float, devices: float) -> None:
        spec = make_spec(resources_per_trial={"gpus": gpus, "cpus": cpus})
        assert devices_per_trial(spec) == devices

    def test_wall_time_of_runs_side_by_side(self) -> None:
        assert wall_seconds([], at_once=2) == 0
        assert wall_seconds([3, 3, 2, 2, 2], at_once=2) == 7  # 3+2+2 beside 3+2
        assert wall_seconds([5, 1, 1], at_once=2) == 5
        assert wall_seconds([1, 2, 3], at_once=1) == 6
        assert wall_seconds([1, 2, 3], at_once=9) == 3


class TestCaching:
    """The teacher's outputs are computed once for all runs, by whichever needs them first."""

    MEASURED = preflight_result(seconds_per_step={**SECONDS_PER_STEP, "teacher": 0.5})

    def costs(self, job: SimulatedJob) -> Costs:
        return Costs(job.spec, PreflightResult.model_validate(job.preflight), History(job.records.values()))

    def test_each_view_is_computed_once(self) -> None:
        costs = self.costs(SimulatedJob(make_spec(training={"views": 3}), preflight=self.MEASURED))
        for splits, steps in STEPS_PER_EPOCH.items():
            assert costs.caching(splits=splits, epochs=2) == pytest.approx(2 * steps * 0.5)
            assert costs.caching(splits=splits, epochs=9) == pytest.approx(3 * steps * 0.5)
        unaugmented = SimulatedJob(make_spec(training={"augmentation": "none"}), preflight=self.MEASURED)
        assert self.costs(unaugmented).caching(splits="search", epochs=9) == pytest.approx(10 * 0.5)
        assert self.costs(SimulatedJob(make_spec())).caching(splits="search", epochs=9) == 0

    def test_once_a_run_has_used_them_they_are_there(self) -> None:
        job = SimulatedJob(make_spec(), preflight=self.MEASURED)
        job.run_to(StageName.SEARCH)
        assert self.costs(job).caching(splits="search", epochs=4) > 0
        job.run_to(StageName.TUNING)
        assert self.costs(job).caching(splits="search", epochs=4) == 0
        assert self.costs(job).caching(splits="proof", epochs=4) > 0
        job.run()
        assert self.costs(job).caching(splits="proof", epochs=4) == 0

    @pytest.mark.parametrize("limit", ["device_seconds", "wall_seconds"])
    def test_the_budget_must_hold_them(self, limit: str) -> None:
        def needed(preflight: dict[str, Any]) -> float:
            spec = make_spec(
                proof={"arms": WITHOUT_LONGER}, budget={limit: 1.0}, search={"concurrent_trials": 1}
            )
            refused = SimulatedJob(spec, preflight=preflight).run()
            assert isinstance(refused, Fail)
            raised = re.search(r"to at least (\d+)", refused.message)
            assert raised is not None
            return float(raised[1])

        search, proof = (EPOCHS * steps * 0.5 for steps in STEPS_PER_EPOCH.values())
        # Tuning gets as much as the search, the caching of its outputs included.
        more = needed(self.MEASURED) - needed(preflight_result())
        assert more == pytest.approx(2 * search + proof, abs=1.1)
