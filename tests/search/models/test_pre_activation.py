"""Maps before a stage's last activation, where there is one."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F  # noqa: N812

from tests.search.models.building import build, images

# The stages that end in an activation, and which.
ENDING = {
    "resnet8_w8": ([0, 1, 2], F.relu),
    "vgg8_cifar": ([0, 1, 2, 3, 4], F.relu),
    "shufflenetv1_cifar": ([0, 1, 2], F.relu),
    "resnet10t": ([0, 1, 2, 3, 4], F.relu),
    "test_byobnet": ([0, 1, 2, 3, 4], F.relu),
    "wrn_16_1_cifar": ([], None),
    "resnetv2_18": ([], None),
    "test_vit": ([], None),
    "test_convnext": ([], None),
}


@pytest.mark.parametrize("name", ENDING)
def test_the_activation_of_these_maps_is_the_output_and_other_stages_are_tapped_there(name: str) -> None:
    stages, activation = ENDING[name]
    model = build(name).train()
    assert model.pre_activation_stages == stages
    every = range(len(model.stages))
    logits, maps = copy.deepcopy(model).forward_taps(images(), every)
    same, before = model.forward_taps(images(), every, taps="pre_activation")
    assert torch.equal(same, logits)
    for stage in every:
        if activation is None:
            assert torch.equal(before[stage], maps[stage])
        else:
            # A block whose last BatchNorm starts at zero passes on what the block before has activated.
            assert stage > 0 or (before[stage] < 0).any()
            assert torch.equal(activation(before[stage]), maps[stage])


def test_one_module_that_activates_several_times_is_known_by_the_call() -> None:
    """timm's SENets have one ReLU per block, called twice or more in it."""
    model = build("legacy_seresnet18").eval()
    every = range(len(model.stages))
    with torch.no_grad():
        maps = model.forward_taps(images(), every)[1]
        before = model.forward_taps(images(), every, taps="pre_activation")[1]
    assert model.pre_activation_stages
    for stage in model.pre_activation_stages:
        assert torch.equal(before[stage].relu(), maps[stage])


def test_they_are_differentiable_in_both_modes() -> None:
    model = build("resnet8_w8").double().train()
    given = images().double()
    weight = model.network.stem[0].weight
    tangent = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).double()
    value = model.forward_taps(given, [2], taps="pre_activation")[1][2].square().sum()
    (gradient,) = torch.autograd.grad(value, weight)
    with torch.no_grad(), forward_ad.dual_level():
        original = weight.detach().clone()
        del model.network.stem[0].weight
        model.network.stem[0].weight = forward_ad.make_dual(original, tangent)
        dual = model.forward_taps(given, [2], taps="pre_activation")[1][2].square().sum()
        along = forward_ad.unpack_dual(dual).tangent
    assert float(along) == pytest.approx(float((gradient * tangent).sum()), rel=1e-9)


def test_nothing_is_kept_after_a_pass_nor_without_asking() -> None:
    model = build("resnet8_w8")
    model.forward_taps(images(), [0], taps="pre_activation")
    assert model._before._watch.seen is None
    with pytest.raises(RuntimeError):
        model.forward_taps(torch.rand(1, 7, 32, 32), [0], taps="pre_activation")
    assert model._before._watch.seen is None
