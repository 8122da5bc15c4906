"""The embedding is what the classifier is given, of networks of every make."""

from __future__ import annotations

import copy

import pytest
import torch

from search.models import TappedModel, build_model
from search.models.embedding import EMBEDDING, classifier_of

NAMES = [
    "resnet8_w8",
    "test_resnet",
    "test_vit",
    "test_convnext",
    "test_mambaout",
    "mobilenetv3_small_050",
    "vgg8_cifar",
    "mixer_s32_224",
    "edgenext_xx_small",
]


def model(name: str) -> TappedModel:
    found = build_model(
        name, classes=7, channels=3, input_size=32, seed=0, data_mean=(0.5,) * 3, data_std=(0.25,) * 3
    )
    return found.eval()


def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_makes_the_logits_of_it(name: str) -> None:
    network = model(name)
    last = len(network.stages) - 1
    with torch.no_grad():
        logits, maps = network.forward_taps(images(), [last, EMBEDDING])
        classifier = classifier_of(network.network)
        assert classifier is not None
        assert torch.equal(logits, network(images()))
        assert maps[EMBEDDING].shape == (3, network.embedding_width, 1, 1)
        torch.testing.assert_close(classifier(maps[EMBEDDING].flatten(1)), logits)
    assert maps[last].shape[2] > 0


def test_a_copy_reads_its_own() -> None:
    network = model("test_resnet")
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
        one, two = (each.forward_taps(images(), [EMBEDDING])[1][EMBEDDING] for each in (network, other))
    assert not torch.allclose(one, two)


def test_it_is_read_alone_and_only_where_it_is_asked_for() -> None:
    network = model("test_resnet")
    assert set(network.forward_taps(images(), [EMBEDDING])[1]) == {EMBEDDING}
    assert set(network.forward_taps(images(), [0])[1]) == {0}
