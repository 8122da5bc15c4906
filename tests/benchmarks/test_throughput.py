"""The loops that are compared do the same work, and the figures are ratios of their rates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.throughput import figures, measured
from benchmarks.throughput_loops import Setting, ours, timms, torchdistills
from tests.search.synthetic import blobs


def setting(images: int = 16) -> Setting:
    return Setting(
        teacher="resnet8_w32",
        student="resnet8_w8",
        images=blobs(images, seed=1, channels=3),
        batch_size=16,
        device=torch.device("cpu"),
        channels_last=False,
    )


@pytest.mark.parametrize("peer", [timms, torchdistills])
def test_a_peers_steps_are_ours(peer: object) -> None:
    """One batch is all the data: three updates give the same student, but for rounding and for the decay of
    biases and norms, which torchdistill does not leave out.
    """
    loops = ours(setting()), peer(setting())  # type: ignore[operator]
    before = [value.detach().clone() for value in loops[0].student.parameters()]
    for loop in loops:
        for _ in range(3):
            loop.step()
    moved = 0.0
    for one, other, start in zip(*(loop.student.parameters() for loop in loops), before, strict=True):
        assert torch.allclose(one, other, atol=5e-4)
        moved = max(moved, float((one - start).abs().max()))
    assert moved > 0.02


def test_a_figure_is_the_median_of_the_rounds_ratios() -> None:
    seconds = {
        "ours": [1.0, 2.0, 1.0],
        "timm": [1.1, 2.0, 0.9],
        "torchdistill": [2.0, 4.0, 9.0],
        "ours, cached": [0.5, 0.5, 0.5],
        "student alone": [0.45, 0.4, 0.5],
    }
    found = {result.name: result for result in figures(seconds, images_per_block=100)}
    assert found["throughput_vs_timm"].value == pytest.approx(1.0)
    assert found["throughput_vs_torchdistill"].value == pytest.approx(2.0)
    assert found["throughput_cached_share"].value == pytest.approx(0.9)
    assert found["throughput_cached_share"].line().endswith("goal >= 0.9")
    assert found["throughput"].value == pytest.approx(100)
    assert found["throughput_cached"].value == pytest.approx(200)


def test_every_loop_is_timed(tmp_path: Path) -> None:
    seconds = measured(setting(48), tmp_path, rounds=2, steps=1)
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys(seconds, 2)
    assert min(min(values) for values in seconds.values()) > 0
