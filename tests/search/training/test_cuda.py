"""Training on a CUDA device: low precision, memory format, fused optimisers, kept images, resuming."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch

from search.checkpoint import from_bytes, to_bytes
from search.records import Learning
from search.spec import Training
from tests.search.training.runs import make_run, weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BASE: dict[str, Any] = {"batch_size": 16, "report_every_steps": 1, "learning_rate": 0.01}


def losses(device: str, steps: int = 4, **settings: Any) -> list[float]:
    training = Training.model_validate({**BASE, **settings})
    run = make_run(training, student="test_resnet", channels=3, device=device)
    return [report.figures["loss"] for report in islice(run.steps(), steps) if report]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_run_is_that_of_the_cpu_but_for_rounding(optimizer: str) -> None:
    assert losses("cuda", optimizer=optimizer) == pytest.approx(losses("cpu", optimizer=optimizer), rel=0.02)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"precision": "bfloat16"}, 0.05),
        ({"precision": "float16"}, 0.03),
        ({"channels_last": True}, 0.02),
        ({"precision": "bfloat16", "channels_last": True, "accumulate_parts": 2}, 0.1),
        ({"torch_compile": True}, 0.02),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_for_speed_compute_the_same(settings: dict[str, Any], tolerance: float) -> None:
    expected = losses("cuda", accumulate_parts=settings.get("accumulate_parts", 1))
    assert losses("cuda", **settings) == pytest.approx(expected, rel=tolerance)


def test_optimisers_are_fused_and_small_sets_lie_on_the_device() -> None:
    run = make_run(Training.model_validate(BASE), channels=3, device="cuda")
    assert run.optimizer.defaults["fused"]
    assert run.batches.train.images.is_cuda
    assert run.batch().images.is_cuda


@pytest.mark.parametrize("policy", ["crop_flip", "colour", "rand_augment"])
def test_augmented_images_are_those_of_the_cpu(policy: str) -> None:
    training = Training.model_validate({**BASE, "augmentation": policy})
    cpu, cuda = (make_run(training, channels=3, device=device).batch().images for device in ("cpu", "cuda"))
    assert ((cpu - cuda.cpu()).abs() * 255).round().max() <= 1
    assert (cpu == cuda.cpu()).float().mean() > 0.999


@pytest.mark.parametrize(
    "settings", [{}, {"precision": "bfloat16"}, {"precision": "float16", "ema_decay": 0.9}]
)
def test_a_search_is_continued(settings: dict[str, Any]) -> None:
    """Not bitwise on CUDA, where sums are taken in any order."""
    training, learn = Training.model_validate({**BASE, **settings}), Learning(learning_rate=0.05)
    whole, first, continued = (make_run(training, learn=learn, device="cuda") for _ in range(3))
    rows = [report.figures["loss"] for report in islice(whole.steps(), 5) if report]
    list(islice(first.steps(), 3))
    continued.load(from_bytes(to_bytes(first.state())))
    ended = [report.figures["loss"] for report in islice(continued.steps(), 2) if report]
    assert ended == pytest.approx(rows[3:], rel=0.05)
    assert weights(continued).keys() == weights(whole).keys()
