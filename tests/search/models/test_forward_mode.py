"""Networks made fit for derivatives and for other parameters, without a change of what they compute."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from search.models.forward_mode import SteppedLSTM, prepare
from search.models.tapped import TappedModel
from search.models.weights import Preprocessing
from search.training.precision import forward_taps
from tests.search.models.building import build, images

DIFFERENTIATED = ["test_resnet", "test_vit", "resnet8_w8", "mixer_s32_224"]


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_the_derivative_along_a_tangent_is_the_difference_quotient(name: str) -> None:
    """In training mode, with copies of the buffers, through the taps, in float64."""
    model, given = build(name).double().train(), images().double()
    generator = torch.Generator().manual_seed(1)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).double()

    # Away from timm's start, where the last BatchNorm of a block is zero and ReLU sits on its kink.
    start = {key: value.detach() + 0.05 * noise(value) for key, value in model.named_parameters()}
    tangent = {key: noise(value) for key, value in start.items()}

    def value(parameters: dict[str, Tensor]) -> Tensor:
        stages = range(len(model.stages))
        logits, maps = forward_taps(model, given, stages, parameters=parameters, keep_buffers=True)
        return torch.cat([logits.flatten(), *(each.flatten() for each in maps.values())]).square().mean()

    with torch.no_grad(), forward_ad.dual_level():
        model.network.apply(_without_fused_attention)
        duals = {key: forward_ad.make_dual(start[key], tangent[key]) for key in start}
        found = float(forward_ad.unpack_dual(value(duals)).tangent)
    step = 1e-8  # small, so that hardly any unit passes the kink of its activation
    with torch.no_grad():
        above, below = (
            float(value({key: start[key] + sign * step * tangent[key] for key in start})) for sign in (1, -1)
        )
    assert found == pytest.approx((above - below) / (2 * step), rel=1e-4)


def _without_fused_attention(module: nn.Module) -> None:
    if hasattr(module, "fused_attn"):
        module.fused_attn = False  # type: ignore[assignment]


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_copied_buffers_leave_the_models_own_alone(name: str) -> None:
    model = build(name).train()
    before = {key: value.clone() for key, value in model.named_buffers()}
    forward_taps(model, images(), [0], keep_buffers=True)
    assert all(torch.equal(value, before[key]) for key, value in model.named_buffers())


@pytest.mark.parametrize("name", [*DIFFERENTIATED, "mobilenetv3_small_050"])
def test_nothing_in_place_is_left(name: str) -> None:
    for module in build(name).modules():
        assert getattr(module, "inplace", False) is not True


@pytest.mark.parametrize("is_bidirectional", [True, False])
@pytest.mark.parametrize("is_batch_first", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_an_lstm_by_steps_is_torchs_own(is_bidirectional: bool, is_batch_first: bool, has_bias: bool) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 7, bidirectional=is_bidirectional, batch_first=is_batch_first, bias=has_bias).double()
    given = torch.randn(3, 4, 5).double()
    with torch.no_grad():
        expected, (hidden, cell) = lstm(given)
        prepare(nn.Sequential(lstm))
        assert isinstance(lstm, SteppedLSTM)
        assert torch.equal(lstm(given)[0], expected)
        with forward_ad.dual_level():
            output, (last, memory) = lstm(given)
    for one, other in ((output, expected), (last, hidden), (memory, cell)):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


class _Shared(nn.Module):
    """One layer in two places, and one weight in two layers."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(8, 8)
        self.first, self.second = layer, layer
        self.other = nn.Linear(8, 8)
        self.other.weight = layer.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.other(self.second(self.first(x.mean(dim=(1, 2))[:, :8]))))


class TestSharedModules:
    def tapped(self, network: nn.Module) -> TappedModel:
        preprocessing = Preprocessing(mean=(0.3,), std=(0.25,), size=32)
        return TappedModel(network, name="own", preprocessing=preprocessing, data_size=32, img_size=None)

    @pytest.mark.parametrize("name", ["own", "coat_tiny"])
    def test_a_call_with_other_parameters_leaves_them_as_they_were(self, name: str) -> None:
        model = self.tapped(_Shared()) if name == "own" else build(name)
        before = dict(model.named_parameters(remove_duplicate=False))
        others = {key: torch.zeros_like(value) for key, value in model.named_parameters()}
        with torch.no_grad():
            logits, _ = forward_taps(model, images(2), [], parameters=others, keep_buffers=True)
        assert not logits.any()
        after = dict(model.named_parameters(remove_duplicate=False))
        assert before.keys() == after.keys()
        assert all(after[key] is value for key, value in before.items())

    def test_other_parameters_count_in_all_places(self) -> None:
        model, twin = self.tapped(_Shared()), self.tapped(_Shared())
        with torch.no_grad():
            found, _ = forward_taps(model, images(2), [], parameters=dict(twin.named_parameters()))
            assert torch.equal(found, twin(images(2)))
