"""What a spec says of the process reaches the run that learns it."""

from __future__ import annotations

import pytest

from search.dimensions import starting_choices
from search.planning.arms import dimensions_of, search_run
from search.records import Learning, PreflightResult
from search.spec import ProcessSettings
from tests.search.planning.simulated_job import make_spec, preflight_result

OTHER_THAN_DEFAULT = {
    "meta_loss": "teacher_logits",
    "normalisation": "sigmoid",
    "pathway_weight_factor": 2.5,
    "learn_temperatures": False,
    "tie_temperatures": True,
    "hypergradient": "finite_difference",
    "lookahead_steps": 3,
    "at_constant_length": True,
    "average_decay": 0.7,
    "retry_every_updates": 4,
    "meta_batch_size": 16,
    "record_points": 5,
}
"""A new setting of both has to be added here, and is then seen to arrive."""


def test_every_setting_arrives() -> None:
    assert set(OTHER_THAN_DEFAULT) == set(Learning.model_fields) & set(ProcessSettings.model_fields)
    spec = make_spec(search={"process": OTHER_THAN_DEFAULT, "space": {"update_every_steps": [3]}})
    run = search_run(
        spec, starting_choices(dimensions_of(spec)), PreflightResult.model_validate(preflight_result())
    )
    assert run.learn is not None
    defaults = Learning(learning_rate=0.1)
    for name, value in OTHER_THAN_DEFAULT.items():
        assert getattr(run.learn, name) == value != getattr(defaults, name), name


@pytest.mark.parametrize(
    ("optimizer", "asked", "expected"),
    [("sgd", None, True), ("adam", None, False), ("adamw", None, False), ("sgd", False, False)],
)
def test_where_steps_grow_with_the_loss_losses_are_judged_at_constant_length(
    optimizer: str, asked: bool | None, expected: bool
) -> None:
    spec = make_spec(training={"optimizer": optimizer}, search={"process": {"at_constant_length": asked}})
    run = search_run(
        spec, starting_choices(dimensions_of(spec)), PreflightResult.model_validate(preflight_result())
    )
    assert run.learn is not None
    assert run.learn.at_constant_length is expected


def test_the_threshold_arrives() -> None:
    spec = make_spec(search={"process": {"skip_below": 0.03}})
    run = search_run(
        spec, starting_choices(dimensions_of(spec)), PreflightResult.model_validate(preflight_result())
    )
    assert run.process.skip_below == 0.03
