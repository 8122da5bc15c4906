"""The contract of all models: stages are found, read with the logits, and differentiated in both modes."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
import timm
import torch
from torch import Tensor

from search.models.tapped import TappedModel
from search.models.taps import read_intermediates
from tests.search.models.building import build, images
from tests.search.models.families import SMALL_AND_DIFFERENT, SMALLEST_BY_MODULE, slopes
from tests.search.models.test_cifar_nets import NAMES as CIFAR_NETS

# A model of so many parameters takes more memory, thrice, than a test should.
TOO_LARGE = {"deepseek_vit_412m"}
OTHER_MODULES = sorted(set(SMALLEST_BY_MODULE.values()) - set(SMALL_AND_DIFFERENT) - TOO_LARGE)


def require_sound_stages(model: TappedModel) -> None:
    given = images(2, channels=len(model.preprocessing.mean))
    assert 3 <= len(model.stages) <= 5
    reductions = [stage.reduction for stage in model.stages]
    assert reductions == sorted(reductions)
    for mode in (True, False):
        model.train(mode)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            logits, maps = model.forward_taps(given, range(len(model.stages)))
            torch.manual_seed(0)
            assert torch.equal(logits, model(given))
        for stage in model.stages:
            side = round(32 / stage.reduction)
            assert maps[stage.index].shape == (2, stage.channels, side, side)
            assert maps[stage.index].isfinite().all()
    require_untouched(model, given, maps)


def require_untouched(model: TappedModel, given: Tensor, maps: dict[int, Tensor]) -> None:
    """No later layer has written into a map: read alone, with nothing computed behind it, it is the same."""
    assert model._read is read_intermediates
    for stage, value in maps.items():
        with torch.no_grad():
            (alone,) = model.network.forward_intermediates(
                model._input(given),
                indices=[model._taps[stage]],
                stop_early=True,
                intermediates_only=True,
                output_fmt="NCHW",
            )
        assert torch.allclose(alone, value, atol=1e-5)


@pytest.mark.parametrize("name", [*SMALL_AND_DIFFERENT, *CIFAR_NETS])
def test_stages_and_derivatives_are_sound(name: str) -> None:
    model = build(name)
    require_sound_stages(model)
    # In float64: BatchNorm of two images' 1x1 maps is ill-conditioned.
    found = slopes(model.double().train(), images(2).double())
    assert found.forward != 0
    assert found.forward == pytest.approx(found.backward, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_MODULES)
def test_the_smallest_model_of_every_other_module_of_timm_keeps_the_contract(name: str) -> None:
    model = build(name, channels=3, data_mean=(0.3,) * 3, data_std=(0.25,) * 3)
    require_sound_stages(model)
    assert math.isfinite(slopes(model.train(), images(2, channels=3)).forward)
    found = slopes(model.eval(), images(2, channels=3))
    assert found.forward == pytest.approx(found.backward, rel=2e-3)


def test_no_module_of_timm_is_left_out() -> None:
    modules = {name for name in timm.list_modules() if find_spec(f"timm.models.{name}")}
    assert modules == set(SMALLEST_BY_MODULE)
    assert set(SMALLEST_BY_MODULE.values()) <= set(timm.list_models())
