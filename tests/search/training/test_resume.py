"""A run that is killed at any step and continued from its state is bitwise one that was not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from search.checkpoint import from_bytes, to_bytes
from search.recipe import constant
from search.records import Learning
from search.spec import Training
from tests.search.training.runs import assert_resumes_bitwise, finished, make_run, weights

SMALL: dict[str, Any] = {"batch_size": 8, "report_every_steps": 1, "learning_rate": 0.01}
LEARN = Learning(learning_rate=0.05, update_every_steps=2, record_points=5)


@pytest.mark.parametrize("schedule", ["onecycle", "cosine", "multistep", "constant"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_at_every_step_with_every_optimiser_and_schedule(optimizer: str, schedule: str) -> None:
    training = Training.model_validate(
        {**SMALL, "optimizer": optimizer, "schedule": schedule, "warmup_epochs": 0.7, "ema_decay": 0.9}
    )
    arguments: dict[str, Any] = {"process": constant(logit_loss="kd"), "images": 24, "epochs": 2}
    whole, continued = (make_run(training, student="test_resnet", **arguments) for _ in range(2))
    states, rows = [to_bytes(whole.state())], []
    for report in whole.steps():
        assert report is not None
        rows.append(report.figures)
        states.append(to_bytes(whole.state()))
    assert len(rows) == 6
    ended = weights(whole)
    for step, state in enumerate(states):
        torch.manual_seed(step)
        continued.load(from_bytes(state))
        assert finished(continued) == rows[step:]
        for name, value in weights(continued).items():
            assert torch.equal(value, ended[name]), (step, name)


@pytest.mark.parametrize("settings", [
    {"optimizer": "sgd"},
    {"accumulate_parts": 4, "augmentation": "crop_flip"},
    {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "label_smoothing": 0.1},
    {"ema_decay": 0.99, "channels_last": True, "augmentation": "rand_augment"},
    {"precision": "bfloat16", "augmentation": "colour"},
    {"precision": "float16", "schedule": "cosine"},
], ids=lambda settings: "-".join(settings))  # fmt: skip
@pytest.mark.parametrize("at", [1, 4])
def test_a_search_with_every_setting(settings: dict[str, Any], at: int) -> None:
    training = Training.model_validate({**SMALL, **settings})
    assert_resumes_bitwise(training, at=at, learn=LEARN, images=24, epochs=2, channels=3)


@pytest.mark.parametrize("at", [2, 3, 5])
def test_a_search_that_looks_three_steps_ahead(at: int) -> None:
    learn = LEARN.model_copy(update={"update_every_steps": 3, "lookahead_steps": 3})
    assert_resumes_bitwise(Training.model_validate(SMALL), at=at, learn=learn, images=24, epochs=2)


def test_a_skipped_pathway_is_skipped_and_tried_again_as_before() -> None:
    learn = LEARN.model_copy(update={"update_every_steps": 1, "retry_every_updates": 3})
    run = make_run(Training.model_validate(SMALL), images=24)
    process = run.parameters.process.model_copy(update={"skip_below": 0.0501})
    for at in (1, 4):
        assert_resumes_bitwise(
            Training.model_validate(SMALL), at=at, learn=learn, process=process, images=24, epochs=2
        )
