"""Logit losses beside torchdistill's, an independent implementation of the same papers."""

from __future__ import annotations

import pytest
import torch
from torchdistill.losses.mid_level import DISTLoss, KDLoss, LogitStdKDLoss

from tests.search.logits.logits import logits_of, loss_of

WHERE = ("", "output", "", "output")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("kd", KDLoss(*WHERE, temperature=4.0, alpha=0.0)),
        ("dist", DISTLoss(*WHERE, tau=4.0)),
        ("logit_std", LogitStdKDLoss(*WHERE, temperature=4.0, alpha=0.0)),
    ],
    ids=["kd", "dist", "logit_std"],
)
def test_the_same_value(name: str, peer: torch.nn.Module, seed: int) -> None:
    student, teacher = (logits_of(2 * seed + each, dtype=torch.float32) for each in (0, 1))
    expected = peer({"": {"output": student}}, {"": {"output": teacher}})
    # Without cross-entropy, torchdistill's KL losses leave the factor T^2 out.
    factor = 1.0 if name == "dist" else 16.0
    assert float(loss_of(name, student, teacher, temperature=4.0)) == pytest.approx(
        factor * float(expected), rel=1e-5
    )
