"""The rules' formulas, written once more in numpy, and the properties by which they are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from search.logits.divergences import log_softened
from search.temperature import TemperatureRuleModule, build_temperature_rule
from search.temperature.ctkd import CurriculumTemperature
from search.temperature.dts import DynamicTemperatureSchedule
from tests.search.temperature.batches import BASE, logits, sure, targets

Array = npt.NDArray[np.float64]


def entropy_of_labels(values: torch.Tensor) -> float:
    log_probabilities = special.log_softmax(values.double().numpy(), axis=1)
    return float(-log_probabilities[np.arange(len(values)), targets().numpy()].mean())


def kd_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    """T^2 KL, as in CTKD."""
    log_s, log_t = (
        special.log_softmax(values.double().numpy() / temperature, axis=1) for values in (student, teacher)
    )
    return float(temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(axis=1).mean())


def current(rule: TemperatureRuleModule) -> float:
    teacher, student = rule(BASE, 0.5)
    assert teacher == student
    return float(teacher)


@pytest.mark.system("dts")
class TestDynamicTemperatureSchedule:
    def rule(self, **config: float) -> DynamicTemperatureSchedule:
        found = build_temperature_rule("dts", config)
        assert isinstance(found, DynamicTemperatureSchedule)
        return found

    def test_it_is_the_running_average_of_a_bounded_cosine_times_the_gaps_factor(self) -> None:
        rule = self.rule(initial_temperature=6.0, lowest_temperature=1.0, highest_temperature=9.0)
        expected = 6.0
        for step in range(12):
            assert current(rule) == pytest.approx(expected, rel=1e-6)
            student, teacher = logits(step), logits(step + 50, size=0.5 + step / 4)
            rule.observe(student, teacher, targets(), progress=step / 12)
            gap = max(0.0, entropy_of_labels(student) - entropy_of_labels(teacher))
            target = 6.0 * 0.5 * (1 + np.cos(np.pi * step / 12)) * (1 + gap / (1 + gap))
            expected = 0.9 * expected + 0.1 * float(np.clip(target, 1.0, 9.0))

    @given(
        gaps=st.lists(st.floats(allow_nan=False), min_size=1, max_size=8),
        progress=st.floats(0, 1),
        initial=st.floats(0.1, 100),
    )
    def test_it_never_leaves_its_bounds(self, gaps: list[float], progress: float, initial: float) -> None:
        rule = self.rule(initial_temperature=initial)
        for gap in [*gaps, -1.0]:
            target = rule.target(torch.tensor(gap, dtype=torch.float64), progress)
            rule.keep("temperature", 0.9 * rule.temperature + 0.1 * target)
            assert 4.0 <= float(target) <= 8.0
            assert 4.0 - 1e-12 <= current(rule) <= 8.0 + 1e-12

    @pytest.mark.parametrize("by", [0.0, 1.0, 30.0, 1e4])
    def test_it_never_leaves_its_bounds_in_training(self, by: float) -> None:
        rule = self.rule()
        for step, shift in enumerate([0, 1, 0, 0, 1, 1] * 5):
            student = sure(of=(targets() + shift) % 10, by=by)
            rule.observe(student, logits(step), targets(), progress=step / 30)
            assert 4.0 <= current(rule) <= 8.0

    @given(gap=st.floats(-1e6, 1e6))
    def test_of_a_constant_gap_the_target_never_rises(self, gap: float) -> None:
        rule = self.rule(lowest_temperature=0.01, highest_temperature=1e4)
        constant = torch.tensor(gap, dtype=torch.float64)
        targets_over_time = [float(rule.target(constant, progress)) for progress in np.linspace(0, 1, 30)]
        assert targets_over_time == sorted(targets_over_time, reverse=True)
        assert np.isfinite(targets_over_time).all()

    @pytest.mark.parametrize("gap", [-1.0, -1.0 - 1e-12, 0.0, float("inf"), float("-inf")])
    def test_it_has_no_pole(self, gap: float) -> None:
        found = self.rule(highest_temperature=100.0).target(torch.tensor(gap, dtype=torch.float64), 0.0)
        assert float(found) == (16.0 if gap > 1 else 8.0)

    def test_the_farther_the_student_is_behind_the_softer(self) -> None:
        rule = self.rule(highest_temperature=100.0)
        found = [float(rule.target(torch.tensor(gap).double(), 0.2)) for gap in (0.0, 0.5, 2.0, 50.0)]
        assert found == sorted(set(found))


@pytest.mark.system("ctkd")
class TestCurriculumTemperature:
    def rule(self, **config: float) -> CurriculumTemperature:
        found = build_temperature_rule("ctkd", config)
        assert isinstance(found, CurriculumTemperature)
        return found

    def test_it_begins_at_15_62(self) -> None:
        assert current(self.rule()) == pytest.approx(15.62, abs=5e-3)
        assert current(self.rule()) == pytest.approx(1 + 20 * special.expit(1.0), rel=1e-12)

    @pytest.mark.parametrize("rate", [0.05, 1e3])
    @pytest.mark.parametrize("size", [3.0, 1e4])
    @pytest.mark.parametrize("start", [-6.0, 1.0, 6.0])
    def test_it_stays_between_1_and_21(self, start: float, size: float, rate: float) -> None:
        rule = self.rule(initial_theta=start, learning_rate=rate)
        for step in range(20):
            rule.observe(logits(step, size=size), logits(step + 50, size=size), targets(), progress=1.0)
            assert 1.0 < current(rule) < 21.0

    @pytest.mark.parametrize("start", [-2.0, 0.0, 1.0])
    def test_with_lambda_at_minus_1_theta_ascends_the_kd_loss(self, start: float) -> None:
        rule, student, teacher = self.rule(initial_theta=start, learning_rate=0.1), logits(0), logits(1)
        assert rule.reversal(1.0) == -1.0

        def loss(theta: float) -> float:
            return kd_loss(student, teacher, 1 + 20 * special.expit(theta))

        rule.observe(student, teacher, targets(), progress=1.0)
        slope = (loss(start + 1e-5) - loss(start - 1e-5)) / 2e-5
        assert float(rule.theta) - start == pytest.approx(0.1 * slope, rel=1e-3)
        assert loss(float(rule.theta)) > loss(start)

    def test_the_ascent_sets_in_along_a_cosine(self) -> None:
        rule = self.rule(ramp_share=0.2)
        found = [rule.reversal(progress) for progress in (0.0, 0.05, 0.1, 0.2, 0.9)]
        assert found == pytest.approx([0.0, (np.cos(np.pi / 4) - 1) / 2, -0.5, -1.0, -1.0])
        half, full = self.rule(ramp_share=0.2), self.rule(ramp_share=0.2)
        half.observe(logits(0), logits(1), targets(), progress=0.1)
        full.observe(logits(0), logits(1), targets(), progress=0.2)
        assert float(half.theta) - 1.0 == pytest.approx((float(full.theta) - 1.0) / 2, rel=1e-9)

    def test_a_student_that_says_what_the_teacher_says_gives_it_nothing_to_follow(self) -> None:
        rule = self.rule()
        rule.observe(logits(0), logits(0), targets(), progress=1.0)
        assert float(rule.theta) == 1.0


class TestLowTemperature:
    def test_the_student_is_at_1_and_the_teacher_at_its_setting(self) -> None:
        for temperature in (0.01, 1.0, 4.0):
            teacher, student = build_temperature_rule("ltd", {"temperature": temperature})(BASE, 0.3)
            assert (float(teacher), float(student)) == (temperature, 1.0)

    def test_towards_0_the_target_is_the_class_that_the_teacher_holds_most_likely(self) -> None:
        teacher, _ = build_temperature_rule("ltd", {"temperature": 1e-3})(BASE, 0.3)
        given_logits = logits(3).double()
        target = log_softened(given_logits, teacher).exp()
        expected = torch.nn.functional.one_hot(given_logits.argmax(dim=1), 10).double()
        torch.testing.assert_close(target, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["fixed", "learned"])
def test_the_processs_own_are_passed_on(name: str) -> None:
    assert build_temperature_rule(name)(BASE, 0.3) == BASE
