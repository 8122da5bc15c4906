"""Devices by name: what is not here, or is none, is refused with those that are."""

from __future__ import annotations

import pytest
import torch

from search.devices import device_for, devices_here
from search.problems import SearchProblem
from search.spec import JobSpec

SPEC = JobSpec.model_validate({"teachers": [{"model": "a"}], "student": {"model": "b"}})
GPU = JobSpec.model_validate(
    {"teachers": [{"model": "a"}], "student": {"model": "b"}, "resources_per_trial": {"gpus": 1.0}}
)


def test_the_cpu_is_always_here() -> None:
    assert device_for(SPEC, None) == "cpu"
    assert devices_here()[0] == "cpu"
    assert device_for(GPU, "cpu") == "cpu"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gpu", "none of cpu, cuda, mps"),
        ("meta", "none of cpu, cuda, mps"),
        ("cuda:77", "cuda:77"),
        ("mps:x", "mps"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_remedy(name: str, why: str) -> None:
    with pytest.raises(SearchProblem) as caught:
        device_for(SPEC, name)
    assert caught.value.code == "device_unavailable"
    assert why in caught.value.message
    assert "choose one of cpu" in caught.value.message
    assert "aten::" not in caught.value.message


def test_a_spec_that_asks_for_a_gpu_gets_it_or_is_told_that_there_is_none() -> None:
    if torch.cuda.is_available():
        assert device_for(GPU, None) == "cuda"
        assert "cuda:0" in devices_here()
        return
    with pytest.raises(SearchProblem, match=r"resources_per_trial\.gpus"):
        device_for(GPU, None)
