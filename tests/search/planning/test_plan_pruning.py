"""Early stopping, against Optuna's own pruner and against percentiles computed by hand."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.plan import should_stop
from search.records import CurvePoint, StageName, Stopped, TrialKey, TrialRecord, TrialState
from search.spec import JobSpec
from tests.search.planning.simulated_job import (
    STEPS_PER_EPOCH,
    SimulatedJob,
    accuracy_by_arm,
    make_spec,
    noise,
)

EPOCHS = 6
STEPS = 10


def spec_with(**pruning: object) -> JobSpec:
    return make_spec(search={"pruning": {"startup_trials": 2, "warmup_epochs": 1, **pruning}})


def trial(
    index: int,
    curve: list[float],
    *,
    state: TrialState = TrialState.COMPLETED,
    stage: StageName = StageName.SEARCH,
    arm: str = "searched",
    every: float = 1.0,
) -> TrialRecord:
    points = tuple(
        CurvePoint(round(STEPS * every * (place + 1)), every * (place + 1), value)
        for place, value in enumerate(curve)
    )
    result = {"accuracy": curve[-1]} if state is TrialState.COMPLETED else None
    return TrialRecord(TrialKey(stage, arm, 0, index), state, {"epochs": EPOCHS}, result, points)


def running(index: int, curve: list[float], **changes: object) -> TrialRecord:
    return trial(index, curve, state=TrialState.RUNNING, **changes)


RIVALS = [
    trial(0, [0.30, 0.40, 0.50, 0.60, 0.70, 0.80]),
    trial(1, [0.32, 0.44, 0.54, 0.64, 0.74, 0.84]),
    trial(2, [0.34, 0.48, 0.58, 0.68, 0.78, 0.88]),
]


class TestDecision:
    def test_below_the_median_it_is_stopped_with_step_value_threshold_and_rule(self) -> None:
        slow = running(3, [0.2, 0.3, 0.35])
        assert should_stop(spec_with(), [*RIVALS, slow], slow.key) == Stopped(
            step=30,
            value=0.35,
            threshold=0.54,
            rule=(
                "best validation accuracy until epoch 3 is not within the best 50% of 3 completed trials "
                "at that epoch"
            ),
        )

    def test_at_the_median_or_above_it_goes_on(self) -> None:
        for value in (0.54, 0.9):
            fair = running(3, [0.2, 0.3, value])
            assert should_stop(spec_with(), [*RIVALS, fair], fair.key) is None

    def test_its_best_so_far_is_what_counts(self) -> None:
        fallen = running(3, [0.2, 0.6, 0.1])
        assert should_stop(spec_with(), [*RIVALS, fallen], fallen.key) is None

    def test_the_percentile_is_the_specs(self) -> None:
        middling = running(3, [0.2, 0.3, 0.53])
        assert should_stop(spec_with(percentile=50.0), [*RIVALS, middling], middling.key) is not None
        assert should_stop(spec_with(percentile=90.0), [*RIVALS, middling], middling.key) is None

    def test_order_does_not_matter(self) -> None:
        slow = running(3, [0.2, 0.3, 0.35])
        one = should_stop(spec_with(), [*RIVALS, slow], slow.key)
        assert one is not None
        assert should_stop(spec_with(), [slow, *RIVALS[::-1]], slow.key) == one


class TestNeverStopped:
    def test_when_pruning_is_off(self) -> None:
        slow = running(3, [0.0, 0.0, 0.0])
        assert should_stop(spec_with(enabled=False), [*RIVALS, slow], slow.key) is None

    def test_before_enough_trials_have_completed(self) -> None:
        slow = running(3, [0.0, 0.0, 0.0])
        stopped = trial(2, [0.5, 0.5, 0.5], state=TrialState.STOPPED_EARLY)
        assert should_stop(spec_with(startup_trials=3), [*RIVALS[:2], stopped, slow], slow.key) is None
        assert should_stop(spec_with(startup_trials=3), [*RIVALS, slow], slow.key) is not None

    def test_during_the_warm_up(self) -> None:
        for epochs, warmup, is_stopped in ((1, 2, False), (2, 2, True), (2, 3, False)):
            slow = running(3, [0.0] * epochs)
            found = should_stop(spec_with(warmup_epochs=warmup), [*RIVALS, slow], slow.key)
            assert (found is not None) == is_stopped

    def test_at_its_last_validation(self) -> None:
        slow = running(3, [0.0] * EPOCHS)
        assert should_stop(spec_with(), [*RIVALS, slow], slow.key) is None
        slow = running(3, [0.0] * (EPOCHS - 1))
        assert should_stop(spec_with(), [*RIVALS, slow], slow.key) is not None

    def test_before_its_first_validation_or_after_its_end(self) -> None:
        assert should_stop(spec_with(), [*RIVALS, running(3, [])], running(3, []).key) is None
        assert should_stop(spec_with(), RIVALS, TrialKey(StageName.SEARCH, "searched", 0, 9)) is None
        ended = trial(3, [0.0] * 3, state=TrialState.FAILED)
        assert should_stop(spec_with(), [*RIVALS, ended], ended.key) is None

    def test_by_validations_after_another_amount_of_training(self) -> None:
        """The rivals validated at even epochs only; what they had at epoch 3 is not known."""
        sparse = [trial(index, [0.4, 0.6, 0.8], every=2.0) for index in range(3)]
        slow = running(3, [0.0, 0.0, 0.0])
        assert should_stop(spec_with(), [*sparse, slow], slow.key) is None
        slow = running(3, [0.0, 0.0])
        assert should_stop(spec_with(), [*sparse, slow], slow.key) is not None

    def test_between_epochs(self) -> None:
        slow = running(3, [0.0] * 5, every=0.5)
        assert should_stop(spec_with(), [*RIVALS, slow], slow.key) is None

    @pytest.mark.parametrize(
        ("stage", "arm"),
        [
            (StageName.SEARCH, "schedule"),
            (StageName.SEARCH, "constant"),
            (StageName.TUNING, "tuned_kd"),
            (StageName.PROOF, "searched"),
        ],
    )
    def test_replays_tuning_and_proof(self, stage: StageName, arm: str) -> None:
        rivals = [trial(index, [0.9] * 6, stage=stage, arm=arm) for index in range(3)]
        slow = running(3, [0.0] * 3, stage=stage, arm=arm)
        assert should_stop(spec_with(), [*rivals, slow], slow.key) is None


@settings(max_examples=60, deadline=None)
@given(
    curves=st.lists(st.lists(st.floats(0, 1), min_size=EPOCHS, max_size=EPOCHS), min_size=1, max_size=6),
    own=st.lists(st.floats(0, 1), min_size=1, max_size=EPOCHS - 1),
    percentile=st.floats(1, 99),
    startup=st.integers(1, 4),
    warmup=st.integers(0, 4),
)
def test_it_decides_as_a_trial_that_reports_to_optuna(
    curves: list[list[float]], own: list[float], percentile: float, startup: int, warmup: int
) -> None:
    """The oracle is a study that is really run: every rival reports its curve, then the trial its own."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.PercentilePruner(percentile, n_startup_trials=startup, n_warmup_steps=warmup)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for curve in curves:
        rival = study.ask()
        for epoch, value in enumerate(curve, start=1):
            rival.report(value, epoch)
        study.tell(rival, curve[-1])
    asked = study.ask()
    for epoch, value in enumerate(own, start=1):
        asked.report(value, epoch)
    spec = spec_with(percentile=percentile, startup_trials=startup, warmup_epochs=warmup)
    candidate = running(len(curves), own)
    records = [*(trial(index, curve) for index, curve in enumerate(curves)), candidate]
    stopped = should_stop(spec, records, candidate.key)
    assert (stopped is not None) == asked.should_prune()
    if stopped is not None:
        assert stopped.value == max(own) < stopped.threshold


def test_a_job_stops_hopeless_trials_and_records_why() -> None:
    job = SimulatedJob(
        make_spec(
            budget={"trials": 8, "epochs_per_trial": 6},
            search={"pruning": {"startup_trials": 2, "warmup_epochs": 2}},
        ),
        accuracy=lambda key, parameters: (
            0.7 + 0.2 * noise(key.index) if key.arm == "searched" else accuracy_by_arm()(key, parameters)
        ),
    )
    job.run()
    stopped = [t for t in job.of(StageName.SEARCH) if t.state is TrialState.STOPPED_EARLY]
    assert stopped
    for record in stopped:
        assert record.stopped is not None
        assert record.stopped.step == record.curve[-1].step >= 2 * STEPS_PER_EPOCH["search"]
        assert record.stopped.value == record.curve[-1].accuracy < record.stopped.threshold
        assert len(record.curve) < 6
    completed = [t for t in job.of(StageName.SEARCH, "searched") if t.state is TrialState.COMPLETED]
    assert len(completed) >= 2
