"""A learned process: its updates, its record, its temperatures, what skipped pathways keep, its state."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search.checkpoint import from_bytes, to_bytes
from search.hypergradient import HyperGradient
from search.problems import NonFiniteFigure
from search.process import MIN_TEMPERATURE, LearnedProcess
from search.recipe import LogitLoss, Point, Process
from search.records import Learning
from tests.search.process.processes import START, gradient, point, process


def learned(**settings_: object) -> LearnedProcess:
    return LearnedProcess(process(START), Learning.model_validate({"learning_rate": 0.1, **settings_}))


def state_of(found: LearnedProcess) -> dict[str, torch.Tensor]:
    """Parameters and moments of the pathways."""
    adam = found.state()["adam"]["state"].get(1, {})
    return {
        "raw": found.state()["raw"]["pathway"],
        **{name: adam[name].clone() for name in adam if name != "step"},
    }


def test_an_update_follows_the_negative_gradient() -> None:
    found = learned()
    found.update(gradient([1.0, -1.0, 0.0], logit=-1.0, temperature=1.0))
    after = found.at(0.5)
    assert after.pathway_weights[0] < 0.05
    assert after.pathway_weights[1] > 0.2
    assert float(after.pathway_weights[2]) == pytest.approx(0.4)
    assert after.logit_weights[0] > 1.0
    assert after.teacher_temperatures[0] < 3.0


def test_a_gradient_that_is_not_finite_is_named() -> None:
    with pytest.raises(NonFiniteFigure, match="pathway weights"):
        learned().update(gradient([float("nan"), 0.0, 0.0]))


@pytest.mark.parametrize("weight", [0.0, 1e-300, 1e-9])
def test_a_start_at_nothing_can_grow(weight: float) -> None:
    """A warm start from a process in which a pathway had faded away."""
    faded = process(point(0.0, logit=weight, pathways=[weight] * 3, temperature=1.0))
    found = LearnedProcess(faded, Learning(learning_rate=0.3))
    for _ in range(100):
        found.update(gradient([-0.01, -1.0, 0.0], logit=-1.0, temperature=-1.0))
    after = found.at(0.5)
    assert min(*after.pathway_weights[:2].tolist(), float(after.logit_weights[0])) > 0.1
    assert float(after.pathway_weights[2]) == pytest.approx(0, abs=1e-5)
    assert after.teacher_temperatures[0] > 2


class TestTemperatures:
    def test_they_stay_above_their_minimum_and_may_be_held(self) -> None:
        falling, held = learned(learning_rate=0.5), learned(learning_rate=0.5, learn_temperatures=False)
        for _ in range(200):
            falling.update(gradient([0.0] * 3, temperature=1.0))
            held.update(gradient([0.0] * 3, temperature=1.0))
        assert MIN_TEMPERATURE < falling.at(1.0).teacher_temperatures[0] < 1.01
        assert held.at(1.0).teacher_temperatures.tolist() == pytest.approx([3.0])

    @given(slopes=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), rate=st.floats(1e-3, 10))
    @settings(max_examples=20, deadline=None)
    def test_no_gradient_takes_them_below_their_minimum(self, slopes: list[float], rate: float) -> None:
        found = learned(learning_rate=rate)
        for slope in slopes:
            found.update(gradient([slope] * 3, logit=slope, temperature=slope))
        after = found.at(1.0)
        for temperatures in (after.teacher_temperatures, after.student_temperatures):
            assert torch.isfinite(temperatures).all()
            assert (temperatures >= MIN_TEMPERATURE).all()
        assert (after.pathway_weights >= 0).all()
        assert (after.logit_weights >= 0).all()

    def test_separate_ones_follow_their_own_gradients(self) -> None:
        found = learned()
        found.update(self.slopes(teacher=1.0, student=-1.0))
        after = found.at(0.5)
        assert after.teacher_temperatures[0] < 3.0
        assert after.student_temperatures[0] > 4.0

    def test_tied_ones_are_one_that_follows_the_sum_of_both_gradients(self) -> None:
        tied = learned(tie_temperatures=True)
        start = tied.at(0.0)
        assert start.student_temperatures.tolist() == start.teacher_temperatures.tolist() == [3.0]
        alone = learned(tie_temperatures=True)
        for _ in range(5):
            tied.update(self.slopes(teacher=1.0, student=-3.0))
            alone.update(self.slopes(teacher=-2.0, student=0.0))
        after = tied.at(0.5)
        assert torch.equal(after.teacher_temperatures, after.student_temperatures)
        assert torch.equal(after.teacher_temperatures, alone.at(0.5).teacher_temperatures)
        assert after.teacher_temperatures[0] > 3.0
        recorded = tied.recorded([1.0] * 3)
        assert all(p.teacher_temperatures == p.student_temperatures for p in recorded.points)

    def test_each_logit_loss_has_its_own(self) -> None:
        two = Process(
            logit_losses=[LogitLoss(), LogitLoss()],
            points=[
                Point(
                    progress=0.0,
                    logit_weights=[1.0, 1.0],
                    teacher_temperatures=[2.0, 5.0],
                    student_temperatures=[2.0, 5.0],
                )
            ],
        )
        found = LearnedProcess(two, Learning(learning_rate=0.1))
        none, first = torch.zeros(2).double(), torch.tensor([1.0, 0.0]).double()
        found.update(HyperGradient(none, torch.zeros(0).double(), first, none))
        after = found.at(0.5)
        assert after.teacher_temperatures[0] < 2.0
        assert float(after.teacher_temperatures[1]) == pytest.approx(5.0)
        assert after.student_temperatures.tolist() == pytest.approx([2.0, 5.0])

    def slopes(self, *, teacher: float, student: float) -> HyperGradient:
        return HyperGradient(
            torch.zeros(1).double(),
            torch.zeros(3).double(),
            torch.tensor([teacher]).double(),
            torch.tensor([student]).double(),
        )


class TestSkippedPathways:
    @pytest.mark.parametrize("normalisation", ["softplus", "biased_softmax", "softmax", "absolute_bounded"])
    @pytest.mark.parametrize("updates_before", [0, 1, 4])
    def test_they_keep_parameters_and_moments_bitwise(self, normalisation: str, updates_before: int) -> None:
        """Also where weights compete, so that another's gradient reaches a skipped one's parameter."""
        found = learned(normalisation=normalisation)
        for _ in range(updates_before):
            found.update(gradient([1.0, -0.5, 0.3]))
        before = state_of(found)
        for step in range(3):
            found.update(gradient([0.0, -0.7, 0.0], logit=0.1 * step), active=[1])
        after = state_of(found)
        for name in after:
            kept = before.get(name, torch.zeros(3).double())
            assert torch.equal(after[name][[0, 2]], kept[[0, 2]]), name
            assert after[name][1] != kept[1], name

    def test_an_active_one_learns_as_if_nothing_were_skipped(self) -> None:
        all_active, some = learned(), learned()
        for _ in range(4):
            all_active.update(gradient([0.0, -0.7, 0.0]), active=[0, 1, 2])
            some.update(gradient([0.0, -0.7, 0.0]), active=[1])
        assert torch.equal(state_of(all_active)["raw"][1], state_of(some)["raw"][1])

    def test_without_a_list_all_are_active(self) -> None:
        one, other = learned(), learned()
        one.update(gradient([1.0, -1.0, 0.5]))
        other.update(gradient([1.0, -1.0, 0.5]), active=(0, 1, 2))
        assert all(
            torch.equal(a, b) for a, b in zip(state_of(one).values(), state_of(other).values(), strict=True)
        )

    def test_none_may_be_active(self) -> None:
        found = learned()
        before = state_of(found)["raw"]
        found.update(gradient([0.0] * 3, logit=1.0), active=())
        assert torch.equal(state_of(found)["raw"], before)
        assert found.at(0.5).logit_weights[0] < 1.0


class TestRecord:
    def test_it_has_the_asked_resolution_and_ends_at_one(self) -> None:
        found = learned(record_points=5)
        for step in range(100):
            found.at(step / 100)
            found.update(gradient([-1.0, 0.0, 0.0]))
        recorded = found.recorded([1.0, 2.0, 3.0])
        assert [p.progress for p in recorded.points] == [0.0, 0.25, 0.5, 0.75, 1.0]
        grown = [p.pathway_weights[0] for p in recorded.points]
        assert grown == sorted(grown)
        assert [pathway.scale for pathway in recorded.pathways] == [1.0, 2.0, 3.0]

    def test_fewer_steps_than_points_give_a_point_per_step(self) -> None:
        found = learned(record_points=33)
        for step in range(3):
            found.at(step / 3)
        assert [p.progress for p in found.recorded([1.0] * 3).points] == [0.0, 1 / 3, 2 / 3, 1.0]

    @pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
    def test_it_is_of_the_average_of_the_parameters(self, decay: float) -> None:
        """sum_k decay^(n - k) raw_k over sum_k decay^(n - k), through the normalisation; by hand."""
        found = learned(average_decay=decay, record_points=11)
        plain = learned(record_points=11)
        raws: list[torch.Tensor] = []
        expected = [0.05]
        for step in range(10):
            if step:
                powers = torch.tensor(
                    [decay ** (len(raws) - 1 - k) for k in range(len(raws))], dtype=torch.float64
                )
                expected.append(
                    math.log1p(math.exp(float((powers * torch.stack(raws)).sum() / powers.sum())))
                )
            running = found.at(step / 10), plain.at(step / 10)
            assert torch.equal(running[0].pathway_weights, running[1].pathway_weights), "training is the same"
            slope = gradient([math.cos(step), 0.0, 0.0], temperature=math.sin(step))
            found.update(slope)
            plain.update(slope)
            raws.append(found.state()["raw"]["pathway"][0])
        recorded = [p.pathway_weights[0] for p in found.recorded([1.0] * 3).points[:-1]]
        assert recorded == pytest.approx(expected, rel=1e-12)
        assert (found.recorded([1.0] * 3) == plain.recorded([1.0] * 3)) == (decay == 0.0)

    def test_after_the_first_update_the_average_is_the_first_update(self) -> None:
        found = learned(average_decay=0.99)
        found.update(gradient([-1.0, 0.0, 0.0], temperature=1.0))
        last = found.recorded([1.0] * 3).points[-1]
        now = found.at(0.5)
        assert last.pathway_weights == pytest.approx(now.pathway_weights.tolist(), rel=1e-12)
        assert last.teacher_temperatures == pytest.approx(now.teacher_temperatures.tolist(), rel=1e-12)

    def test_an_average_swings_less(self) -> None:
        swings = {}
        for decay in (0.0, 0.9):
            found = learned(average_decay=decay, record_points=200)
            for step in range(199):
                found.at(step / 199)
                found.update(gradient([(-1.0) ** step, 0.0, 0.0]))
            late = [p.pathway_weights[0] for p in found.recorded([1.0] * 3).points[100:]]
            swings[decay] = max(abs(one - other) for one, other in pairwise(late))
        assert swings[0.9] < swings[0.0] / 5


class TestFloor:
    """A pathway that is skipped waits just below: the few updates it gets can bring it back."""

    def sunk(self, normalisation: str, *, skip_below: float) -> LearnedProcess:
        start = process(START).model_copy(update={"skip_below": skip_below})
        found = LearnedProcess(start, Learning(learning_rate=0.1, normalisation=normalisation))
        for _ in range(300):
            found.update(gradient([1.0, 0.0, -0.01]))
        return found

    @pytest.mark.parametrize("normalisation", ["softplus", "sigmoid"])
    def test_it_waits_between_a_half_of_the_threshold_and_the_threshold(self, normalisation: str) -> None:
        waiting = float(self.sunk(normalisation, skip_below=0.005).at(0.5).pathway_weights[0])
        assert 0.002 < waiting < 0.005

    @pytest.mark.parametrize("normalisation", ["softplus", "sigmoid"])
    def test_a_few_favourable_updates_bring_it_back(self, normalisation: str) -> None:
        found = self.sunk(normalisation, skip_below=0.005)
        updates = 0
        while float(found.at(0.5).pathway_weights[0]) < 0.005:
            # Adam's second moment remembers the time before with a decay of 0.999.
            found.update(gradient([-1.0, 0.0, 0.0]), active=[0])
            updates += 1
            assert updates <= 30

    def test_without_skipping_it_may_fade(self) -> None:
        assert float(self.sunk("softplus", skip_below=0.0).at(0.5).pathway_weights[0]) < 1e-3


@pytest.mark.parametrize("decay", [0.0, 0.8])
@pytest.mark.parametrize("interruption", [0, 1, 5])
def test_continued_from_its_state_it_is_bitwise_the_same(decay: float, interruption: int) -> None:
    slopes = [gradient([math.sin(step), 1.0, -0.2], temperature=math.cos(step)) for step in range(8)]
    actives = [None, [0, 1], [1], None, [2], [0], None, [0, 2]]
    whole, first, second = (learned(average_decay=decay, record_points=9) for _ in range(3))
    for step in range(8):
        whole.at(step / 8)
        whole.update(slopes[step], active=actives[step])
    found = first
    for step in range(8):
        if step == interruption:
            second.load(from_bytes(to_bytes(first.state())))
            found = second
        found.at(step / 8)
        found.update(slopes[step], active=actives[step])
    assert found.recorded([1.0] * 3) == whole.recorded([1.0] * 3)
    assert all(
        torch.equal(a, b) for a, b in zip(state_of(found).values(), state_of(whole).values(), strict=True)
    )
