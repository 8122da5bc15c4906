"""KD against oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from search.logits import build_logit_loss
from search.registry import UnknownMethodError
from tests.search.logits.logits import logits_of, targets


@pytest.mark.system("kd")
class TestKnowledgeDistillation:
    @pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
    def test_it_is_kl_divergence_times_the_squared_temperature(self, temperature: float) -> None:
        student, teacher = logits_of(0), logits_of(1)
        found = build_logit_loss("kd")(
            student,
            teacher,
            teacher_temperature=torch.tensor(temperature),
            student_temperature=torch.tensor(temperature),
            targets=targets(),
        )
        expected = temperature**2 * functional.kl_div(
            functional.log_softmax(student / temperature, dim=1),
            functional.softmax(teacher / temperature, dim=1),
            reduction="batchmean",
        )
        assert float(found) == pytest.approx(float(expected), rel=1e-12)

    def test_two_temperatures_against_numpy(self) -> None:
        student, teacher = logits_of(0).numpy(), logits_of(1).numpy()

        def softened(logits: np.ndarray, temperature: float) -> np.ndarray:
            powers = np.exp(logits / temperature)
            probabilities: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
            return probabilities

        p, q = softened(teacher, 1.5), softened(student, 4.0)
        expected = (p * np.log(p / q)).sum() / len(p) * 1.5 * 4.0
        found = build_logit_loss("kd")(
            logits_of(0),
            logits_of(1),
            teacher_temperature=torch.tensor(1.5, dtype=torch.float64),
            student_temperature=torch.tensor(4.0, dtype=torch.float64),
        )
        assert float(found) == pytest.approx(expected, rel=1e-12)

    def test_the_factor_is_not_differentiated(self) -> None:
        """With T^2 inside the derivative, lowering T would look like progress on any loss."""
        temperature = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
        kd = build_logit_loss("kd")
        loss = kd(
            logits_of(0), logits_of(1), teacher_temperature=temperature, student_temperature=temperature
        )
        (found,) = torch.autograd.grad(loss, temperature)

        def bare(value: float) -> float:
            at = torch.tensor(value, dtype=torch.float64)
            return (
                float(kd(logits_of(0), logits_of(1), teacher_temperature=at, student_temperature=at))
                / value**2
            )

        expected = 9.0 * (bare(3.0 + 1e-5) - bare(3.0 - 1e-5)) / 2e-5
        assert float(found) == pytest.approx(expected, rel=1e-7)

    def test_at_high_temperature_it_matches_the_squared_difference_of_centred_logits(self) -> None:
        student, teacher = logits_of(0), logits_of(1)
        hot = torch.tensor(1e4, dtype=torch.float64)
        found = build_logit_loss("kd")(student, teacher, teacher_temperature=hot, student_temperature=hot)
        centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
        assert float(found) == pytest.approx(float(centred.square().sum(1).mean()) / (2 * 10), rel=1e-3)


def test_an_unknown_loss_is_refused_by_name() -> None:
    with pytest.raises(UnknownMethodError, match=r"'kdd'.*kd"):
        build_logit_loss("kdd")
