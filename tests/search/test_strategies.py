"""The contract of every registered strategy. A new one is covered without an edit here."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search.strategies  # noqa: F401  (registers them)
from search.dimensions import (
    Choices,
    Dimension,
    Interval,
    Observation,
    Options,
    Strategy,
    derived_seed,
    starting_choices,
    usable,
)
from search.records import TrialState
from search.registry import Kind, get, methods
from search.strategies.random import random_search
from search.strategies.tpe import STARTUP_TRIALS, tpe

DIMENSIONS: tuple[Dimension, ...] = (
    Options("connections", ("same_depth", "last", "all")),
    Options("distances", (["mse"], ["mse", "attention"])),
    Options("transform", ("projection",)),
    Interval("process_learning_rate", 0.02, 0.1),
    Interval("linear", 1.0, 3.0, log=False),
    Interval("fixed", 2.0, 2.0),
    Options("update_every_steps", (1, 4)),
)
STRATEGIES = [pytest.param(method.factory, id=method.name) for method in methods(Kind.STRATEGY)]


def observations(
    count: int, *, seed: int = 0, dimensions: Sequence[Dimension] = DIMENSIONS
) -> list[Observation]:
    """Made-up trials in every state."""
    made = []
    generator = random.Random(seed)
    for index in range(count):
        state = generator.choice([*TrialState, TrialState.COMPLETED, TrialState.COMPLETED])
        final = generator.random()
        has_curve = state not in (TrialState.PROPOSED, TrialState.FAILED)
        curve = tuple((epoch, final * epoch / 4) for epoch in range(1, 5)) if has_curve else ()
        made.append(
            Observation(
                index=index,
                choices=random_search(dimensions, (), index=index, seed=seed),
                state=state,
                accuracy=final if state is TrialState.COMPLETED else None,
                curve=curve,
            )
        )
    return made


def is_inside(choices: Choices, dimensions: Sequence[Dimension] = DIMENSIONS) -> bool:
    names = [dimension.name for dimension in dimensions]
    return sorted(choices) == sorted(names) and all(d.contains(choices[d.name]) for d in dimensions)


def test_the_strategies_that_specs_may_name_are_there() -> None:
    assert {"tpe", "random"} <= {method.name for method in methods(Kind.STRATEGY)}
    assert get(Kind.STRATEGY, "tpe").summary.startswith("Proposes")


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestContract:
    @pytest.mark.parametrize("count", [0, 1, STARTUP_TRIALS, 12, 60])
    def test_choices_lie_in_the_space(self, strategy: Strategy, count: int) -> None:
        for seed in range(4):
            choices = strategy(DIMENSIONS, observations(count, seed=seed), index=count, seed=seed)
            assert is_inside(choices), choices

    @pytest.mark.parametrize("count", [0, 12])
    def test_equal_seeds_propose_equally(self, strategy: Strategy, count: int) -> None:
        one, other = (strategy(DIMENSIONS, observations(count), index=count, seed=5) for _ in range(2))
        assert one == other

    @pytest.mark.parametrize("count", [0, 12])
    def test_seeds_and_indices_matter(self, strategy: Strategy, count: int) -> None:
        seen = observations(count)
        rates = {
            strategy(DIMENSIONS, seen, index=index, seed=seed)["process_learning_rate"]
            for index in (20, 21)
            for seed in (0, 1)
        }
        assert len(rates) == 4

    def test_the_order_of_observations_does_not_matter(self, strategy: Strategy) -> None:
        seen = observations(15)
        expected = strategy(DIMENSIONS, seen, index=15, seed=1)
        for shuffle in range(4):
            random.Random(shuffle).shuffle(seen)
            assert strategy(DIMENSIONS, seen, index=15, seed=1) == expected

    def test_nothing_is_changed(self, strategy: Strategy) -> None:
        seen = observations(15)
        before = copy.deepcopy(seen)
        state = random.getstate()
        strategy(DIMENSIONS, seen, index=15, seed=1)
        assert seen == before
        assert random.getstate() == state

    def test_a_call_leaves_no_trace_in_the_next(self, strategy: Strategy) -> None:
        expected = strategy(DIMENSIONS, observations(15), index=15, seed=1)
        strategy(DIMENSIONS, observations(30, seed=9), index=30, seed=2)
        assert strategy(DIMENSIONS, observations(15), index=15, seed=1) == expected

    def test_observations_of_another_space_are_passed_over(self, strategy: Strategy) -> None:
        elsewhere = (*DIMENSIONS[1:], Options("connections", ("none_of_ours",)))
        seen = observations(8, dimensions=elsewhere)
        assert is_inside(strategy(DIMENSIONS, seen, index=8, seed=0))
        assert usable(DIMENSIONS, seen) == []

    def test_a_space_without_a_choice(self, strategy: Strategy) -> None:
        single: tuple[Dimension, ...] = (Options("a", (["x", "y"],)), Interval("b", 3.0, 3.0))
        for count in (0, 12):
            seen = observations(count, dimensions=single)
            assert strategy(single, seen, index=count, seed=0) == {"a": ["x", "y"], "b": 3.0}

    @settings(max_examples=25, deadline=None)
    @given(
        low=st.floats(1e-6, 1e3),
        ratio=st.floats(1, 1e4),
        log=st.booleans(),
        count=st.integers(0, 9),
        seed=st.integers(0, 2**31 - 1),
    )
    def test_any_range(
        self, strategy: Strategy, low: float, ratio: float, log: bool, count: int, seed: int
    ) -> None:
        space = (Interval("x", low, low * ratio, log),)
        seen = observations(count, seed=seed, dimensions=space)
        assert is_inside(strategy(space, seen, index=count, seed=seed), space)


class TestRandom:
    def test_it_is_uniform_on_the_scale_that_is_asked_for(self) -> None:
        """1,000 draws, each half of the range in 500 +- 4 sigma = 63 of them."""
        space: tuple[Dimension, ...] = (Interval("x", 1.0, 100.0), Interval("y", 1.0, 101.0, log=False))
        drawn = [random_search(space, (), index=index, seed=0) for index in range(1000)]
        assert abs(sum(choices["x"] < 10.0 for choices in drawn) - 500) < 63
        assert abs(sum(choices["y"] < 51.0 for choices in drawn) - 500) < 63

    def test_every_option_is_drawn_equally_often(self) -> None:
        """900 draws of 3: 300 +- 4 sigma = 57."""
        space = (Options("x", ("a", "b", "c")),)
        drawn = [random_search(space, (), index=index, seed=0)["x"] for index in range(900)]
        for option in "abc":
            assert abs(drawn.count(option) - 300) < 57

    def test_another_dimension_leaves_the_draws_of_the_others(self) -> None:
        few = random_search(DIMENSIONS[:3], (), index=4, seed=0)
        more = random_search(DIMENSIONS, (), index=4, seed=0)
        assert few.items() <= more.items()


class TestTpe:
    """40 trials, evenly over a range whose geometric middle, 10, is best."""

    space = (Interval("x", 1.0, 100.0),)
    even = tuple(10 ** (2 * (place + 0.5) / 40) for place in range(40))

    def proposals(self, seen: Sequence[Observation]) -> list[float]:
        return [float(tpe(self.space, seen, index=100 + i, seed=0)["x"]) for i in range(30)]

    def completed(self, index: int, x: float, accuracy: float) -> Observation:
        return Observation(index, {"x": x}, TrialState.COMPLETED, accuracy, ((1, accuracy),))

    def good_at_10(self) -> list[Observation]:
        return [self.completed(i, x, 1 - abs(math.log10(x) - 1)) for i, x in enumerate(self.even)]

    def test_it_samples_where_trials_were_good(self) -> None:
        """8 to 12.5 is a tenth of the range on its scale: by chance 3 of 30 would lie there."""
        assert sum(8 < x < 12.5 for x in self.proposals(self.good_at_10())) > 25

    def test_it_keeps_apart_from_what_is_running(self) -> None:
        crowd = [Observation(40 + i, {"x": 10.0 + 0.01 * i}, TrialState.RUNNING) for i in range(20)]
        assert sum(8 < x < 12.5 for x in self.proposals([*self.good_at_10(), *crowd])) < 5

    def test_stopped_trials_count_below_completed_ones(self) -> None:
        """The upper half was stopped, at higher figures even than the lower half ended with."""
        seen = [
            self.completed(i, x, 0.5 - 0.001 * i)
            if x < 10
            else Observation(i, {"x": x}, TrialState.STOPPED_EARLY, None, ((1, 0.9),))
            for i, x in enumerate(self.even)
        ]
        assert sum(x < 10 for x in self.proposals(seen)) > 25

    def test_failed_trials_say_nothing(self) -> None:
        broken = [Observation(40 + i, {"x": 10.0}, TrialState.FAILED) for i in range(20)]
        assert self.proposals([*self.good_at_10(), *broken]) == self.proposals(self.good_at_10())


class TestDimensions:
    def test_where_a_search_starts(self) -> None:
        assert starting_choices(DIMENSIONS) == {
            "connections": "same_depth",
            "distances": ["mse"],
            "transform": "projection",
            "process_learning_rate": pytest.approx((0.02 * 0.1) ** 0.5),
            "linear": 2.0,
            "fixed": 2.0,
            "update_every_steps": 1,
        }

    @given(low=st.floats(1e-6, 1e6), ratio=st.floats(1, 1e6), fraction=st.floats(0, 1), log=st.booleans())
    def test_a_range_never_leaves_itself(self, low: float, ratio: float, fraction: float, log: bool) -> None:
        interval = Interval("x", low, low * ratio, log)
        assert interval.contains(interval.at(fraction))

    def test_seeds_do_not_change_between_machines(self) -> None:
        assert derived_seed("tpe", 0, 1) == 314350107
        assert derived_seed("tpe", 0, 1) != derived_seed("tpe", 1, 0)
