"""Edits of a process: properties that hold of any process, and figures by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.planning.process_edits import averaged, frozen, pruned_below, resampled, shares, smoothed
from search.planning.process_shapes import held, shuffled
from search.planning.process_table import ProcessTable
from search.process import ReplayedProcess
from search.recipe import Point, Process
from tests.search.process.processes import START, point, process, processes

EDITS = {
    "smoothed": lambda it: smoothed(it, width=0.3),
    "frozen": lambda it: frozen(it, at=0.6),
    "averaged": lambda it: averaged(it, begin=0.25, end=0.75),
    "resampled": lambda it: resampled(it, points=7),
    "pruned_below": lambda it: pruned_below(it, share=0.2),
    "held": held,
    "shuffled": lambda it: shuffled(it, seed=1),
}
fractions = st.floats(0, 1)


def rows(found: Process, progress: np.ndarray) -> np.ndarray:
    table = ProcessTable(found)
    return np.array([table.at(at) for at in progress])


def values(found: Point, process: Process) -> list[float]:
    entropy = found.cross_entropy_weight
    return [
        process.cross_entropy_weight if entropy is None else entropy,
        *found.logit_weights,
        *found.pathway_weights,
        *found.teacher_temperatures,
        *found.student_temperatures,
    ]


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
class TestEveryEdit:
    @given(recorded=processes())
    @settings(max_examples=30, deadline=None)
    def test_it_gives_a_process_that_survives_json_and_can_be_replayed(self, edit, recorded: Process) -> None:
        before = recorded.model_dump_json()
        found = edit(recorded)
        assert Process.model_validate_json(found.model_dump_json()) == found
        assert Process.model_validate(found.model_dump()) == found
        assert recorded.model_dump_json() == before
        assert ReplayedProcess(found).at(0.4).pathway_weights.shape == (len(found.pathways),)

    @given(recorded=processes())
    @settings(max_examples=30, deadline=None)
    def test_it_keeps_inside_the_range_of_each_value(self, edit, recorded: Process) -> None:
        found = edit(recorded)
        kept = [pathway.name for pathway in found.pathways]
        chosen = [index for index, pathway in enumerate(recorded.pathways) if pathway.name in kept]
        for one in found.points:
            every = [
                (one.pathway_weights, [[p.pathway_weights[i] for i in chosen] for p in recorded.points]),
                (one.logit_weights, [p.logit_weights for p in recorded.points]),
                (one.teacher_temperatures, [p.teacher_temperatures for p in recorded.points]),
            ]
            for after, before in every:
                for value, column in zip(after, zip(*before, strict=True), strict=True):
                    assert min(column) * (1 - 1e-12) <= value <= max(column) * (1 + 1e-12)

    def test_a_constant_process_stays_what_it_is(self, edit) -> None:
        constant = process(START)
        found = edit(constant)
        progress = np.linspace(0, 1, 9)
        kept = [pathway.name for pathway in found.pathways]
        chosen = [0, 1, *(2 + i for i, path in enumerate(constant.pathways) if path.name in kept), 5, 6]
        np.testing.assert_allclose(rows(found, progress), rows(constant, progress)[:, chosen], rtol=1e-12)


RAMP = process(
    point(0.0, logit=0.0, pathways=[0.0, 1.0, 0.0]), point(1.0, logit=2.0, pathways=[4.0, 1.0, 0.0])
)
KINK = process(
    point(0.0, logit=0.0, pathways=[0.0] * 3),
    point(0.5, logit=1.0, pathways=[1.0] * 3),
    point(1.0, logit=0.0, pathways=[0.0] * 3),
)


class TestSmoothed:
    def test_the_average_of_a_window(self) -> None:
        """Of a tent of height 1 over [0.4, 0.6]: 0.9; over [0, 0.1] and [0.9, 1] at the ends: 0.1."""
        found = smoothed(KINK, width=0.2)
        assert [p.progress for p in found.points] == [0.0, 0.5, 1.0]
        assert [p.logit_weights[0] for p in found.points] == pytest.approx([0.1, 0.9, 0.1])

    def test_width_zero_changes_nothing_and_width_two_gives_the_mean_everywhere(self) -> None:
        assert smoothed(KINK, width=0.0) == KINK
        for one in smoothed(KINK, width=2.0).points:
            assert values(one, KINK) == pytest.approx(values(averaged(KINK).points[0], KINK))

    @given(recorded=processes(), width=st.floats(0.01, 1))
    @settings(max_examples=30, deadline=None)
    def test_it_is_the_integral_over_the_window(self, recorded: Process, width: float) -> None:
        """By the midpoint rule, which is exact where a function is linear."""
        found = smoothed(recorded, width=width)
        for one in found.points:
            begin, end = max(0.0, one.progress - width / 2), min(1.0, one.progress + width / 2)
            inside = [p.progress for p in recorded.points if begin < p.progress < end]
            lengths = np.diff([begin, *inside, end])
            middles = np.array([begin, *inside]) + lengths / 2
            expected = (rows(recorded, middles) * lengths[:, None]).sum(axis=0) / (end - begin)
            np.testing.assert_allclose(values(one, found), expected, rtol=1e-9, atol=1e-9)

    def test_a_negative_width_is_refused(self) -> None:
        with pytest.raises(ValueError, match="negative"):
            smoothed(KINK, width=-0.1)


class TestFrozen:
    @given(recorded=processes(), at=fractions)
    @settings(max_examples=50, deadline=None)
    def test_it_is_the_process_before_and_held_from_then_on(self, recorded: Process, at: float) -> None:
        found = frozen(recorded, at=at)
        before, after = np.linspace(0, at, 7), np.linspace(at, 1, 5)
        np.testing.assert_allclose(rows(found, before), rows(recorded, before), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(rows(found, after), rows(recorded, np.full(5, at)), rtol=1e-12)

    def test_at_the_ends(self) -> None:
        assert frozen(RAMP, at=0.0).is_constant
        assert frozen(RAMP, at=0.0).points[0] == RAMP.points[0]
        assert frozen(RAMP, at=1.0) == RAMP

    def test_a_moment_outside_training_is_refused(self) -> None:
        with pytest.raises(ValueError, match="progress"):
            frozen(RAMP, at=1.5)


class TestAveraged:
    def test_the_mean_of_a_window_held(self) -> None:
        found = averaged(RAMP, begin=0.5, end=1.0)
        assert found.is_constant
        assert values(found.points[0], RAMP) == pytest.approx([1.0, 1.5, 3.0, 1.0, 0.0, 3.0, 4.0])

    def test_a_window_of_one_moment_is_that_moment(self) -> None:
        assert values(averaged(RAMP, begin=0.25, end=0.25).points[0], RAMP) == pytest.approx(
            [1.0, 0.5, 1.0, 1.0, 0.0, 3.0, 4.0]
        )

    def test_cross_entropy_may_change_over_training_too(self) -> None:
        last = RAMP.points[1].model_copy(update={"cross_entropy_weight": 0.2})
        falling = RAMP.model_copy(update={"points": [RAMP.points[0], last]})
        assert averaged(falling).points[0].cross_entropy_weight == pytest.approx(0.6)
        assert held(falling).points[0].cross_entropy_weight == 0.2

    def test_a_window_the_wrong_way_round_is_refused(self) -> None:
        with pytest.raises(ValueError, match="begin"):
            averaged(RAMP, begin=0.7, end=0.2)


class TestResampled:
    @given(recorded=processes(), points=st.integers(2, 40))
    @settings(max_examples=30, deadline=None)
    def test_it_has_so_many_points_and_passes_through_the_process(
        self, recorded: Process, points: int
    ) -> None:
        found = resampled(recorded, points=points)
        progress = np.array([p.progress for p in found.points])
        np.testing.assert_allclose(progress, np.linspace(0, 1, points), rtol=1e-12)
        np.testing.assert_allclose(rows(found, progress), rows(recorded, progress), rtol=1e-12)

    def test_more_points_on_the_same_grid_change_nothing(self) -> None:
        progress = np.linspace(0, 1, 33)
        np.testing.assert_allclose(
            rows(resampled(KINK, points=9), progress), rows(KINK, progress), atol=1e-12
        )

    def test_one_point_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 2"):
            resampled(KINK, points=1)


class TestPruned:
    def test_shares_are_of_the_mean_weight(self) -> None:
        assert shares(RAMP) == pytest.approx([2 / 3, 1 / 3, 0.0])

    def test_shares_of_losses_that_are_not_scaled_count_their_scales(self) -> None:
        scaled = RAMP.model_copy(
            update={
                "unit_scaled": False,
                "pathways": [p.model_copy(update={"scale": 0.5}) for p in RAMP.pathways[:1]]
                + RAMP.pathways[1:],
            }
        )
        assert shares(scaled) == pytest.approx([0.5, 0.5, 0.0])

    def test_what_weighs_less_goes_and_the_rest_stays_as_it_is(self) -> None:
        found = pruned_below(RAMP, share=0.4)
        assert found.pathways == RAMP.pathways[:1]
        assert [p.pathway_weights for p in found.points] == [[0.0], [4.0]]
        assert [p.logit_weights for p in found.points] == [[0.0], [2.0]]
        assert pruned_below(RAMP, share=0.0) == RAMP

    @given(recorded=processes(), share=fractions)
    @settings(max_examples=50, deadline=None)
    def test_those_that_stay_have_the_share(self, recorded: Process, share: float) -> None:
        found = pruned_below(recorded, share=share)
        before = dict(zip([p.name for p in recorded.pathways], shares(recorded), strict=True))
        assert {p.name for p in found.pathways} == {name for name, part in before.items() if part >= share}
        weighing = sum(before.values()) > 0
        if weighing and share <= 0.999 / len(before):
            assert found.pathways

    def test_a_process_in_which_nothing_weighs_may_lose_all(self) -> None:
        silent = process(point(0.0, logit=1.0, pathways=[0.0] * 3))
        assert pruned_below(silent, share=0.1).pathways == []

    def test_a_share_that_is_none_is_refused(self) -> None:
        with pytest.raises(ValueError, match="share"):
            pruned_below(RAMP, share=1.5)


def test_edits_load_without_torch() -> None:
    code = "import sys, search.planning.process_edits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
