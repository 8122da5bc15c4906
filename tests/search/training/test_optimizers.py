"""Optimisers and schedules of the settings, against torch's own and against the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from search.spec import Training
from search.training.optimizers import make_optimizer, make_schedule
from tests.search.training.runs import model

CPU = torch.device("cpu")
STEPS, STEPS_PER_EPOCH = 40, 10


class Losses(nn.Module):
    """Transforms with a weight and a bias, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, 4, 1)
        self.register_buffer("scales", torch.zeros(2))


def optimizer_of(training: Training, student: str = "test_vit") -> torch.optim.Optimizer:
    return make_optimizer(training, student=model(student, seed=1), losses=Losses(), device=CPU)


def rates(training: Training, *, steps: int = STEPS) -> list[float]:
    """The rate that each update is made with."""
    optimizer = optimizer_of(training)
    schedule = make_schedule(training, optimizer, total_steps=steps, steps_per_epoch=STEPS_PER_EPOCH)
    found = []
    for updates in range(1, steps + 1):
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        found.append(rate)
        optimizer.step()
        schedule.step(updates)
    return found


@pytest.mark.parametrize(
    ("settings", "expected", "own"),
    [
        ({"optimizer": "sgd"}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ({"optimizer": "sgd", "nesterov": False}, torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
        ({"optimizer": "sgd", "momentum": 0.0}, torch.optim.SGD, {"momentum": 0.0, "nesterov": False}),
        ({"optimizer": "adam"}, torch.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-8}),
        ({"optimizer": "adamw"}, torch.optim.AdamW, {"betas": (0.9, 0.999), "eps": 1e-8}),
    ],
    ids=["nesterov", "momentum", "sgd", "adam", "adamw"],
)
def test_each_optimiser_steps_as_torchs_own(settings: dict, expected: type, own: dict) -> None:
    """Three steps with given gradients, decay included, are those of the plain optimiser."""
    training = Training(learning_rate=0.03, weight_decay=0.1, **settings)
    start = [torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), torch.ones(4)]
    ended = []
    for ours in (True, False):
        layer = nn.Linear(4, 5)
        layer.weight = nn.Parameter(start[0].clone())
        layer.bias = nn.Parameter(torch.ones(5))
        if ours:
            optimizer = make_optimizer(training, student=layer, losses=nn.Module(), device=CPU)
            assert type(optimizer) is expected
        else:
            groups = [
                {"params": [layer.bias], "weight_decay": 0.0},
                {"params": [layer.weight], "weight_decay": 0.1},
            ]
            optimizer = expected(groups, lr=0.03, foreach=False, **own)
        generator = torch.Generator().manual_seed(2)
        for _ in range(3):
            for parameter in layer.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        ended.append([parameter.detach().clone() for parameter in layer.parameters()])
    for one, other in zip(*ended, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-7)


def test_biases_norms_and_what_the_network_names_are_not_decayed() -> None:
    student, losses = model("test_vit", seed=1), Losses()
    optimizer = make_optimizer(Training(weight_decay=0.5), student=student, losses=losses, device=CPU)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    named = dict(student.network.named_parameters()) | dict(losses.named_parameters())
    kept = {name for name, parameter in named.items() if id(parameter) not in decayed}
    assert {name for name in named if name.endswith("bias") or "norm" in name} <= kept
    assert {"cls_token", "pos_embed"} <= kept
    assert "projection.weight" not in kept
    assert "blocks.0.attn.qkv.weight" not in kept
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_memory_format_changes_no_step(optimizer: str) -> None:
    """The fused kernels walk through memory: weights, gradients and moments must lie alike."""
    training = Training(optimizer=optimizer, learning_rate=0.1)  # type: ignore[arg-type]
    ended: list[Tensor] = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 4, 3).to(memory_format=memory_format)  # type: ignore[call-overload]
        made = make_optimizer(training, student=layer, losses=nn.Module(), device=CPU)
        generator = torch.Generator().manual_seed(2)
        for _ in range(3):
            made.zero_grad()
            images = torch.randn(2, 3, 8, 8, generator=generator).to(memory_format=memory_format)
            layer(images).square().mean().backward()
            made.step()
        ended.append(layer.weight.detach().clone())
    assert torch.allclose(*ended, rtol=1e-5, atol=1e-6)


class TestSchedules:
    def test_onecycle_rises_to_the_peak_and_falls_to_next_to_nothing(self) -> None:
        found = rates(Training(schedule="onecycle", learning_rate=0.1))
        assert found[0] == pytest.approx(0.1 / 25)
        assert max(found) == pytest.approx(0.1, rel=2e-3)
        assert found[-1] < 0.001
        assert found.index(max(found)) == pytest.approx(0.3 * STEPS, abs=1)

    def test_cosine_is_the_formula(self) -> None:
        found = rates(Training(schedule="cosine", learning_rate=0.1))
        expected = [0.05 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)]
        assert found == pytest.approx(expected)

    def test_cosine_after_a_warm_up_takes_the_rest_of_the_run(self) -> None:
        found = rates(Training(schedule="cosine", learning_rate=0.1, warmup_epochs=1.0))
        warm_up = [0.01 + step * 0.009 for step in range(10)]
        cosine = [0.05 * (1 + math.cos(math.pi * step / 30)) for step in range(30)]
        assert found == pytest.approx(warm_up + cosine)

    def test_milestones_are_parts_of_the_run(self) -> None:
        training = Training(
            schedule="multistep", learning_rate=0.1, milestones=[0.5, 0.75], decay_rate=0.2, warmup_epochs=0.5
        )
        warm_up = [0.02 + step * 0.016 for step in range(5)]
        assert rates(training) == pytest.approx(warm_up + [0.1] * 15 + [0.02] * 10 + [0.004] * 10)

    def test_constant_is_constant_after_its_warm_up(self) -> None:
        found = rates(Training(schedule="constant", learning_rate=0.1, warmup_epochs=0.2))
        assert found == pytest.approx([0.05, 0.075] + [0.1] * 38)
        assert rates(Training(schedule="constant", learning_rate=0.1)) == [0.1] * STEPS

    @pytest.mark.parametrize("schedule", ["onecycle", "cosine", "multistep", "constant"])
    @pytest.mark.parametrize("steps", [1, 2])
    def test_the_shortest_runs_have_a_schedule(self, schedule: str, steps: int) -> None:
        training = Training(schedule=schedule, learning_rate=0.1, warmup_epochs=3)  # type: ignore[arg-type]
        assert all(0 < rate <= 0.1 + 1e-9 for rate in rates(training, steps=steps))
