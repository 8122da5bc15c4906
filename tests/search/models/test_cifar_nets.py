"""The CIFAR nets of the literature: their sizes, by hand and as published; timm's interface; plain torch."""

from __future__ import annotations

from itertools import pairwise

import pytest
import timm
import torch

import search.cifar_nets  # noqa: F401  (registers them)
from search.models import available_models

NAMES = timm.list_models(module="cifar_net")

# Parameters for 100 classes, in millions to two places, as the literature's tables give them.
PUBLISHED = {
    "resnet20_cifar": 0.28,
    "resnet32_cifar": 0.47,
    "resnet44_cifar": 0.67,
    "resnet56_cifar": 0.86,
    "resnet110_cifar": 1.74,
    "resnet8x4_cifar": 1.23,
    "resnet32x4_cifar": 7.43,
    "wrn_16_1_cifar": 0.18,
    "wrn_16_2_cifar": 0.70,
    "wrn_40_1_cifar": 0.57,
    "wrn_40_2_cifar": 2.26,
    "vgg8_cifar": 3.97,
    "vgg11_cifar": 9.28,
    "vgg13_cifar": 9.46,
    "vgg16_cifar": 14.77,
    "vgg19_cifar": 20.09,
    "mobilenetv2_050_cifar": 0.81,
    "shufflenetv1_cifar": 0.95,
    "shufflenetv2_cifar": 1.36,
}
# (channels of the map, side of the map of a 32x32 image) of every stage.
STAGES = {
    "resnet20_cifar": [(16, 32), (32, 16), (64, 8)],
    "resnet8x4_cifar": [(64, 32), (128, 16), (256, 8)],
    "resnet8_w8": [(8, 32), (16, 16), (32, 8)],
    "resnet8_w32": [(32, 32), (64, 16), (128, 8)],
    "wrn_40_2_cifar": [(32, 32), (64, 16), (128, 8)],
    "vgg13_cifar": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)],
    "mobilenetv2_050_cifar": [(12, 16), (16, 8), (48, 4), (160, 2)],
    "shufflenetv1_cifar": [(240, 16), (480, 8), (960, 4)],
    "shufflenetv2_cifar": [(116, 16), (232, 8), (464, 4)],
}


def conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> int:
    """Weights of a convolution without bias, and its BatchNorm's two per channel."""
    return inputs // groups * outputs * kernel**2 + 2 * outputs


def resnet(depth: int, stem: int, widths: tuple[int, int, int]) -> int:
    blocks, total = (depth - 2) // 6, conv(3, stem, 3) + 100 * (widths[-1] + 1)
    for stage, (inputs, outputs) in enumerate(pairwise((stem, *widths))):
        total += conv(inputs, outputs, 3) + (2 * blocks - 1) * conv(outputs, outputs, 3)
        total += conv(inputs, outputs, 1) if stage or inputs != outputs else 0
    return total


def wide_resnet(depth: int, widening: int) -> int:
    blocks, widths = (depth - 4) // 6, [16, *(width * widening for width in (16, 32, 64))]
    total = 9 * 3 * 16 + 2 * widths[-1] + 100 * (widths[-1] + 1)
    for inputs, outputs in pairwise(widths):
        # BatchNorm stands before each convolution here.
        total += 9 * inputs * outputs + 2 * inputs + (2 * blocks - 1) * (9 * outputs**2 + 2 * outputs)
        total += inputs * outputs if inputs != outputs else 0
    return total


def vgg(counts: tuple[int, ...]) -> int:
    widths, total = (3, 64, 128, 256, 512, 512), 100 * 513
    for count, (inputs, outputs) in zip(counts, pairwise(widths), strict=True):
        total += conv(inputs, outputs, 3) + outputs + (count - 1) * (conv(outputs, outputs, 3) + outputs)
    return total


def mobilenetv2() -> int:
    rows = ((1, 8, 1), (6, 12, 2), (6, 16, 3), (6, 32, 4), (6, 48, 3), (6, 80, 3), (6, 160, 1))
    total, inputs = conv(3, 16, 3) + conv(160, 1280, 1) + 100 * 1281, 16
    for expansion, outputs, count in rows:
        for _ in range(count):
            inner = expansion * inputs
            total += conv(inputs, inner, 1) + conv(inner, inner, 3, groups=inner) + conv(inner, outputs, 1)
            inputs = outputs
    return total


def shufflenetv1() -> int:
    total = conv(3, 24, 1) + 100 * 961
    for (inputs, outputs), count in zip(pairwise((24, 240, 480, 960)), (4, 8, 4), strict=True):
        for block in range(count):
            entering = inputs if block == 0 else outputs
            own = outputs - inputs if block == 0 else outputs
            inner, first = own // 4, 1 if entering == 24 else 3
            total += conv(entering, inner, 1, first) + conv(inner, inner, 3, inner) + conv(inner, own, 1, 3)
    return total


def shufflenetv2() -> int:
    total = conv(3, 24, 1) + conv(464, 1024, 1) + 100 * 1025
    for (inputs, outputs), count in zip(pairwise((24, 116, 232, 464)), (4, 8, 4), strict=True):
        half = outputs // 2
        inner = conv(half, half, 3, groups=half) + conv(half, half, 1)
        total += conv(inputs, inputs, 3, groups=inputs) + 2 * conv(inputs, half, 1) + inner
        total += (count - 1) * (conv(half, half, 1) + inner)
    return total


BY_HAND = {
    **{f"resnet{depth}_cifar": resnet(depth, 16, (16, 32, 64)) for depth in (20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4_cifar": resnet(depth, 32, (64, 128, 256)) for depth in (8, 32)},
    **{f"resnet8_w{width}": resnet(8, width, (width, 2 * width, 4 * width)) for width in (8, 32)},
    **{f"wrn_{d}_{k}_cifar": wide_resnet(d, k) for d, k in ((16, 1), (16, 2), (40, 1), (40, 2))},
    "vgg8_cifar": vgg((1, 1, 1, 1, 1)),
    "vgg11_cifar": vgg((1, 1, 2, 2, 2)),
    "vgg13_cifar": vgg((2, 2, 2, 2, 2)),
    "vgg16_cifar": vgg((2, 2, 3, 3, 3)),
    "vgg19_cifar": vgg((2, 2, 4, 4, 4)),
    "mobilenetv2_050_cifar": mobilenetv2(),
    "shufflenetv1_cifar": shufflenetv1(),
    "shufflenetv2_cifar": shufflenetv2(),
}


def test_these_are_all_and_the_catalogue_has_them() -> None:
    assert set(NAMES) == set(BY_HAND)
    assert set(NAMES) <= set(available_models())


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_hand_and_of_the_literature(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=100)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == BY_HAND[name]
    assert name not in PUBLISHED or round(count / 1e6, 2) == PUBLISHED[name]


@pytest.mark.parametrize("name", STAGES)
def test_stages_have_the_papers_widths_and_sizes(name: str) -> None:
    network = timm.create_model(name, num_classes=10).eval()
    given = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features, maps = network.forward_intermediates(given)
        listed = timm.create_model(name, features_only=True).eval()(given)
        assert torch.equal(network.forward_head(features), network(given))
    assert [tuple(value.shape[1:]) for value in maps] == [(c, side, side) for c, side in STAGES[name]]
    assert [value.shape for value in listed] == [value.shape for value in maps]
    assert [(info["num_chs"], 32 // info["reduction"]) for info in network.feature_info] == STAGES[name]


class TestInterface:
    def test_channels_classes_and_head_are_as_asked(self) -> None:
        network = timm.create_model("resnet8_w8", num_classes=7, in_chans=1, drop_rate=0.5).eval()
        given = torch.rand(2, 1, 20, 20)
        assert network(given).shape == (2, 7)
        assert network.get_classifier().out_features == network.num_classes == 7
        network.reset_classifier(3)
        assert network(given).shape == (2, 3)
        network.reset_classifier(0)
        assert network(given).shape == (2, network.num_features)
        assert network.forward_head(network.forward_features(given), pre_logits=True).shape == (2, 32)

    def test_intermediates_can_be_chosen_and_stop_early(self) -> None:
        network = timm.create_model("resnet20_cifar").eval()
        given = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            every = network.forward_intermediates(given, intermediates_only=True)
            last = network.forward_intermediates(given, indices=1, intermediates_only=True)
            first = network.forward_intermediates(given, [0], stop_early=True, intermediates_only=True)
        assert torch.equal(last[0], every[2])
        assert torch.equal(first[0], every[0])
        with pytest.raises(ValueError, match="NCHW"):
            network.forward_intermediates(given, output_fmt="NLC")

    def test_its_configuration_is_that_of_small_images(self) -> None:
        config = timm.get_pretrained_cfg("wrn_40_2_cifar")
        assert config.input_size == (3, 32, 32)
        assert config.notes == ("registered by `import search.cifar_nets`",)
        network = timm.create_model("wrn_40_2_cifar")
        assert network.get_submodule(config.first_conv).in_channels == 3
        assert network.get_submodule(config.classifier).out_features == 100

    @pytest.mark.parametrize("name", NAMES)
    def test_its_first_layer_and_classifier_are_where_it_says(self, name: str) -> None:
        config = timm.get_pretrained_cfg(name)
        with torch.device("meta"):
            network = timm.create_model(name, in_chans=5, num_classes=11)
        assert network.get_submodule(config.first_conv).in_channels == 5
        assert network.get_submodule(config.classifier).out_features == 11

    def test_gradient_checkpointing_is_refused(self) -> None:
        with pytest.raises(NotImplementedError):
            timm.create_model("resnet8_w8").set_grad_checkpointing()
