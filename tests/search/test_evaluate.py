"""Evaluation against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search.data import ImageSet
from search.evaluate import batch_size_for, evaluate, expected_calibration_error, predict
from search.models import TappedModel, build_model
from tests.search.synthetic import blobs


@pytest.fixture(scope="module")
def model() -> TappedModel:
    built = build_model(
        "test_resnet", classes=10, channels=1, input_size=32, seed=0, data_mean=(0.3,), data_std=(0.3,)
    )
    images = blobs(64, seed=1).images.float() / 255
    built.train()
    with torch.no_grad():
        for _ in range(20):
            built(images)  # gives BatchNorm running figures that differ from a batch's own
    return built


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return blobs(100, seed=2)


def by_hand(logits: np.ndarray, labels: np.ndarray, *, bins: int = 15) -> float:
    """Guo et al.'s sum over bins, one bin at a time."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for lower in np.linspace(0, 1, bins + 1)[:-1]:
        inside = (confidence > lower) & (confidence <= lower + 1 / bins)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return total


class TestFigures:
    def test_they_match_numpy(self, model: TappedModel, images: ImageSet) -> None:
        logits = predict(model, images.images, batch_size=32).double().numpy()
        labels = images.labels.numpy()
        log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
        found = evaluate(model, images, batch_size=32)
        assert found.accuracy == (logits.argmax(1) == labels).mean()
        assert found.loss == pytest.approx((log_sum - logits[np.arange(100), labels]).mean(), rel=1e-12)
        assert found.expected_calibration_error == pytest.approx(by_hand(logits, labels), rel=1e-9)
        assert found.agreement is None
        assert found.images == 100

    def test_agreement_is_the_share_of_equal_answers(self, model: TappedModel, images: ImageSet) -> None:
        own = predict(model, images.images, batch_size=32)
        other = own.clone()
        other[:25] = -other[:25]
        assert evaluate(model, images, batch_size=32, teacher_logits=own).agreement == 1.0
        assert evaluate(model, images, batch_size=32, teacher_logits=other).agreement == 0.75

    def test_a_limit_takes_the_first_images(self, model: TappedModel, images: ImageSet) -> None:
        own = predict(model, images.images, batch_size=100)
        found = evaluate(model, images, batch_size=32, limit=40, teacher_logits=own)
        assert found.images == 40
        assert found.agreement == 1.0
        assert found.accuracy == evaluate(model, images.first(40), batch_size=32).accuracy


class TestConduct:
    def test_the_batch_size_does_not_matter(self, model: TappedModel, images: ImageSet) -> None:
        whole = predict(model, images.images, batch_size=100)
        assert torch.allclose(predict(model, images.images, batch_size=7), whole, atol=1e-5)

    def test_the_mode_is_restored_and_nothing_is_changed(self, model: TappedModel, images: ImageSet) -> None:
        before = {name: value.clone() for name, value in model.state_dict().items()}
        state = torch.get_rng_state()
        for mode in (True, False):
            model.train(mode)
            evaluate(model, images, batch_size=32)
            assert model.training is mode
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_mode_is_restored_after_a_failure(self, images: ImageSet) -> None:
        class Broken(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                raise ValueError("broken")

        model = Broken().train()
        with pytest.raises(ValueError, match="broken"):
            evaluate(model, images, batch_size=32)
        assert model.training

    def test_it_is_the_same_twice(self, model: TappedModel, images: ImageSet) -> None:
        assert evaluate(model, images, batch_size=32) == evaluate(model, images, batch_size=32)

    def test_batch_statistics_are_not_used(self, model: TappedModel, images: ImageSet) -> None:
        """In training mode an image's logits would depend on its neighbours."""
        alone = predict(model, images.images[:1], batch_size=1)
        assert torch.allclose(predict(model, images.images, batch_size=100)[:1], alone, atol=1e-5)


class TestCalibration:
    def test_sure_and_right_is_perfect(self) -> None:
        logits = torch.eye(10) * 100
        assert expected_calibration_error(logits, torch.arange(10)) == pytest.approx(0.0, abs=1e-12)

    def test_sure_and_wrong_is_as_bad_as_can_be(self) -> None:
        logits = torch.eye(10) * 100
        assert expected_calibration_error(logits, (torch.arange(10) + 1) % 10) == pytest.approx(1.0)

    @pytest.mark.parametrize("seed", range(5))
    def test_random_logits_against_the_sum_over_bins(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(500, 10, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 10, (500,), generator=generator)
        found = expected_calibration_error(logits, labels)
        assert found == pytest.approx(by_hand(logits.numpy(), labels.numpy()), rel=1e-9)


def test_small_images_go_through_a_cpu_in_small_batches() -> None:
    assert batch_size_for("cpu", size=32) == 64
    assert batch_size_for("cpu", size=8) == 64
    assert batch_size_for("cpu", size=64) == 16
    assert batch_size_for("cpu", size=224) == 8
    assert batch_size_for("cuda", size=32) == 512


def test_a_model_elsewhere_than_its_images_is_named(images: ImageSet) -> None:
    far = nn.Linear(4, 2).to("meta")
    with pytest.raises(ValueError, match="the model is on meta, the images are to be on cpu"):
        predict(far, images.images)
