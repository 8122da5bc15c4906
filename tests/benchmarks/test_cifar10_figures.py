"""The figures of the CIFAR-10 benchmark, from made-up accuracies."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.cifar10_figures import Figures, epochs_fraction, results, verdict
from benchmarks.cifar10_form import FULL, QUICK, Form, StepSeconds, device_seconds, planned


def runs(*accuracies: float) -> dict[int, float]:
    return dict(enumerate(accuracies))


SHORT = Figures(
    epochs=10,
    arms={
        "student_alone": runs(0.50),
        "plain_kd": runs(0.52, 0.53, 0.54),
        "tuned_kd": runs(0.54, 0.55, 0.56),
        "searched": runs(0.57, 0.58, 0.59),
        "schedule": runs(0.55, 0.57, 0.56),
        "constant": runs(0.57, 0.58, 0.59),
        "longer_kd_replay": runs(0.60, 0.60),
        "longer_plain_kd_replay": runs(0.61, 0.61),
        "longer_kd_total": runs(0.62, 0.62),
    },
    plain_curve={10: runs(0.52, 0.53)},
    searched_curve={10: runs(0.57, 0.58, 0.59)},
    replay_cost=1.1,
    search_seconds=100.0,
    tuning_seconds=101.0,
)
LONG = replace(
    SHORT,
    epochs=60,
    plain_curve={30: runs(0.50, 0.50), 60: runs(0.52, 0.54), 120: runs(0.525, 0.54)},
    searched_curve={15: runs(0.49, 0.49), 30: runs(0.51, 0.51), 60: runs(0.57, 0.57)},
    replay_cost=1.2,
)


def figure(name: str, short: Figures = SHORT, long: Figures = LONG) -> float:
    (found,) = [result.value for result in results(short, long) if result.name == name]
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cifar10_gain_points", 3.0),
        ("cifar10_schedule_points", -2.0),
        ("cifar10_replay_cost", 1.2),
        ("cifar10_vs_longer_replay_points", -2.5),
        ("cifar10_vs_longer_plain_replay_points", -3.5),
        ("cifar10_vs_longer_total_points", -4.5),
        ("cifar10_long_saturation_points", 0.25),
    ],
)
def test_figures_are_paired_by_seed_and_in_points(name: str, value: float) -> None:
    assert figure(name) == pytest.approx(value)


def test_the_lower_bound_lies_below_the_mean_and_a_single_seed_has_none() -> None:
    assert 0 < figure("cifar10_gain_lower") < figure("cifar10_gain_points")
    single = replace(SHORT, arms={**SHORT.arms, "tuned_kd": runs(0.54)})
    assert math.isnan(figure("cifar10_gain_lower", short=single))


def test_every_goal_of_the_benchmark_is_there() -> None:
    goals = {result.name for result in results(SHORT, LONG) if result.goal}
    assert goals == {
        "cifar10_gain_lower",
        "cifar10_replay_cost",
        "cifar10_vs_longer_replay_points",
        "cifar10_vs_longer_plain_replay_points",
        "cifar10_epochs_fraction",
    }


def test_epochs_until_plain_kds_accuracy_are_interpolated() -> None:
    assert epochs_fraction(LONG) == pytest.approx((30 + 30 * (0.525 - 0.51) / 0.06) / 60)
    never = replace(LONG, searched_curve={30: runs(0.4), 60: runs(0.5)})
    assert epochs_fraction(never) == math.inf
    at_once = replace(LONG, searched_curve={15: runs(0.52), 60: runs(0.6)})
    assert epochs_fraction(at_once) == 0.25


def test_the_verdict_names_where_longer_kd_wins() -> None:
    four = replace(
        SHORT, arms={**SHORT.arms, "searched": runs(*[0.57, 0.571] * 2), "longer_kd_replay": runs(*[0.6] * 4)}
    )
    sentences = " ".join(verdict(four, LONG))
    assert "one replay: longer KD is ahead, -" in sentences
    assert "+3.0 percentage points" in sentences


def test_the_verdict_does_not_name_a_winner_that_chance_might_have_made() -> None:
    assert "they cannot be told apart, -2.5 percentage points" in verdict(SHORT, LONG)[1]
    alone = replace(SHORT, arms={**SHORT.arms, "longer_kd_replay": runs(0.60)})
    assert "longer KD is ahead by 3.0 points in one seed" in verdict(alone, LONG)[1]


class TestPlan:
    def test_a_machine_that_is_fast_enough_runs_all(self) -> None:
        fast = StepSeconds(kd=0.003, search=0.01)
        assert planned(FULL, short=fast, long=fast, processes=2) == FULL

    @pytest.mark.parametrize("form", [FULL, QUICK], ids=["full", "quick"])
    def test_on_a_slow_machine_the_long_schedule_is_cut_to_its_minutes(self, form: Form) -> None:
        short, long = StepSeconds(kd=0.15, search=0.4), StepSeconds(kd=0.045, search=0.08)
        cut = planned(form, short=short, long=long, processes=2)
        assert cut.long.search_epochs < form.long.search_epochs
        assert cut.long.search_epochs <= cut.long.epochs < form.long.epochs
        assert cut.short == form.short
        seconds = device_seconds(cut, cut.short, short) + device_seconds(cut, cut.long, long)
        assert seconds <= 60 * 2 * form.minutes * 1.05

    def test_the_long_schedule_stays_longer_than_nothing(self) -> None:
        slow = StepSeconds(kd=5.0, search=9.0)
        cut = planned(QUICK, short=slow, long=slow, processes=2)
        assert cut.long.epochs >= cut.short.epochs
