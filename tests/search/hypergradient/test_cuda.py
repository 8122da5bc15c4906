"""The same hypergradients on a CUDA device."""

from __future__ import annotations

import pytest
import torch

from search.distill import Distillation, Material
from tests.search.hypergradient.runs import PAIRS, TRAINING, caught_after, make_run, relative_error, whole

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("optimizer", ["nesterov", "adamw"])
@pytest.mark.parametrize("lookahead", [1, 2])
def test_equals_the_cpu_in_float64(optimizer: str, pair: str, lookahead: int) -> None:
    learn = {"lookahead_steps": lookahead, "update_every_steps": 2}
    made = make_run(TRAINING[optimizer], PAIRS[pair], learn=learn)
    on_cuda = make_run(TRAINING[optimizer], PAIRS[pair], learn=learn)
    material = on_cuda.material
    moved = Distillation(
        Material(
            student=material.student, teacher=material.teacher, train=material.train, meta=material.meta
        ),
        on_cuda.parameters,
        on_cuda.training,
        seed=on_cuda.seed,
        device="cuda",
    )
    moved.losses.double()
    steps = 2 + lookahead
    expected, _, _ = caught_after(made, steps)
    found, _, _ = caught_after(moved, steps)
    assert relative_error(whole(found), whole(expected)) < 1e-6


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_is_finite(precision: str) -> None:
    training = TRAINING["adamw"].model_copy(update={"precision": precision})
    made = make_run(training, "test_vit", dtype=torch.float32)
    moved = Distillation(made.material, made.parameters, made.training, seed=made.seed, device="cuda")
    found, _, _ = caught_after(moved, 3)
    assert whole(found).isfinite().all()
