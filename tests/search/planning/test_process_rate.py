"""The rate at which a search learns its process follows the number of its updates."""

from __future__ import annotations

import pytest

from search.dimensions import starting_choices
from search.planning.arms import dimensions_of, search_run
from search.planning.process_rate import process_rate, usual_process_rate
from search.records import PreflightResult
from search.spec import JobSpec
from tests.search.planning.simulated_job import make_spec, preflight_result


def rate_of(spec: JobSpec, *, steps_per_epoch: int, **choices: float) -> float:
    preflight = preflight_result()
    preflight["steps_per_epoch"] = {"search": steps_per_epoch, "proof": steps_per_epoch}
    chosen = {**starting_choices(dimensions_of(spec)), **choices}
    run = search_run(spec, chosen, PreflightResult.model_validate(preflight))
    assert run.learn is not None
    return run.learn.learning_rate


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "every", "expected"),
    [(2, 5, 1, 0.1), (30, 10, 1, 0.1), (12, 100, 1, 0.025), (12, 100, 4, 0.1), (90, 10_000, 10, 30 / 90_000)],
)
def test_rate_times_updates_is_30_unless_there_are_few(
    epochs: int, steps_per_epoch: int, every: int, expected: float
) -> None:
    spec = make_spec(
        budget={"trials": 2, "epochs_per_trial": epochs}, search={"space": {"update_every_steps": [every]}}
    )
    assert rate_of(spec, steps_per_epoch=steps_per_epoch) == pytest.approx(expected)


def test_the_update_interval_that_a_trial_chose_counts() -> None:
    spec = make_spec(
        budget={"trials": 2, "epochs_per_trial": 10}, search={"space": {"update_every_steps": [1, 8]}}
    )
    rates = [rate_of(spec, steps_per_epoch=1000, update_every_steps=every) for every in (1, 8)]
    assert rates[1] == pytest.approx(8 * rates[0])


def test_a_search_of_the_rate_goes_three_times_down_and_up() -> None:
    (dimension,) = (one for one in dimensions_of(make_spec()) if one.name == "process_learning_rate_factor")
    usual = usual_process_rate(updates=3000)
    rates = [process_rate({dimension.name: dimension.at(share)}, updates=3000) for share in (0, 0.5, 1)]
    assert rates == pytest.approx([usual / 3, usual, 3 * usual])


def test_a_range_of_the_jobs_own_is_taken_as_it_is() -> None:
    spec = make_spec(search={"space": {"process_learning_rate": {"low": 0.02, "high": 0.08}}})
    assert rate_of(spec, steps_per_epoch=100_000) == pytest.approx(0.04)


def test_a_search_of_no_whole_update_has_a_rate() -> None:
    assert usual_process_rate(updates=0) == 0.1
