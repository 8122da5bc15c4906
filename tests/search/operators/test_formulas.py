"""Operators against formulas written anew in numpy, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor
from torch.nn import functional

from search.registry import Kind, get, methods
from tests.search.pathways.maps import normal

Values = np.ndarray[Any, np.dtype[np.float64]]


def applied(name: str, feature_map: Tensor, config: Mapping[str, Any] | None = None) -> Tensor:
    """What a map becomes on the student's side; the same as on the teacher's."""
    operator = get(Kind.OPERATOR, name).bound(config)
    student, teacher = operator(feature_map, feature_map.clone())
    assert torch.equal(student, teacher)
    found: Tensor = student
    return found


def spatial_attention(f: Values) -> Values:
    batch, _, height, width = f.shape
    scores = np.abs(f).mean(axis=1).reshape(batch, -1) / 0.5
    return f * np.sqrt(height * width * softmax(scores, axis=1)).reshape(batch, 1, height, width)


def channel_attention(f: Values) -> Values:
    scores = np.abs(f).mean(axis=(2, 3)) / 0.5
    return f * np.sqrt(f.shape[1] * softmax(scores, axis=1))[:, :, None, None]


def pooled(side: int) -> Callable[[Values], Values]:
    def formula(f: Values) -> Values:
        height, width = (-(-n // side) for n in f.shape[2:])
        cells = np.empty((*f.shape[:2], height, width))
        for row in range(height):
            for column in range(width):
                cell = f[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
                cells[:, :, row, column] = cell.max(axis=(2, 3))
        return cells

    return formula


def multi_scale(f: Values) -> Values:
    def spread(side: int) -> Values:
        cells = pooled(side)(f).repeat(side, axis=2).repeat(side, axis=3)
        return cells[:, :, : f.shape[2], : f.shape[3]]

    return np.concatenate([f, spread(2), spread(4)], axis=1)


def patches(side: int) -> Callable[[Values], Values]:
    def formula(f: Values) -> Values:
        channels, height, width = f.shape[1:]
        whole = np.pad(f, [(0, 0), (0, 0), (0, -height % side), (0, -width % side)])
        found = [
            whole[:, channel, row : row + side, column : column + side]
            for channel in range(channels)
            for row in range(0, height, side)
            for column in range(0, width, side)
        ]
        return np.stack(found, axis=1)

    return formula


def normed(axis: int | tuple[int, ...]) -> Callable[[Values], Values]:
    def formula(f: Values) -> Values:
        count = np.prod([f.shape[each] for each in np.atleast_1d(axis)])
        return f / np.sqrt((f**2).sum(axis=axis, keepdims=True)) * np.sqrt(count)

    return formula


def shares(axis: int | tuple[int, ...]) -> Callable[[Values], Values]:
    count = lambda f: np.prod([f.shape[each] for each in np.atleast_1d(axis)])  # noqa: E731
    return lambda f: count(f) * softmax(f, axis=axis)


def logarithms(axis: int | tuple[int, ...]) -> Callable[[Values], Values]:
    return lambda f: log_softmax(f, axis=axis)


def batch_norm(f: Values) -> Values:
    mean, variance = f.mean(axis=(0, 2, 3), keepdims=True), f.var(axis=(0, 2, 3), keepdims=True)
    return (f - mean) / np.sqrt(variance + 1e-5)


FORMULAS: dict[str, Callable[[Values], Values]] = {
    "spatial_attention": spatial_attention,
    "channel_attention": channel_attention,
    "sample_attention": lambda f: len(f) * softmax(f / 0.5, axis=0),
    "max_pool2": pooled(2),
    "max_pool4": pooled(4),
    "multi_scale": multi_scale,
    "local2": patches(2),
    "local4": patches(4),
    "l2_places": normed((2, 3)),
    "l2_channels": normed(1),
    "l2_samples": normed(0),
    "softmax_places": shares((2, 3)),
    "softmax_channels": shares(1),
    "softmax_samples": shares(0),
    "log_softmax_places": logarithms((2, 3)),
    "log_softmax_channels": logarithms(1),
    "log_softmax_samples": logarithms(0),
    "min_max": lambda f: (f - f.min()) / (f.max() - f.min()),
    "batch_norm": batch_norm,
    "image_vectors": lambda f: f.reshape(len(f), -1, 1, 1),
    "channel_vectors": lambda f: f.reshape(*f.shape[:2], -1, 1).transpose(0, 2, 1, 3),
}
DRAWN = {"random_mask"}


def test_every_operator_has_a_formula_here() -> None:
    assert set(FORMULAS) | DRAWN == {method.name for method in methods(Kind.OPERATOR)}


@pytest.mark.parametrize("shape", [(3, 5, 8, 8), (4, 3, 7, 5), (2, 6, 3, 3), (5, 4, 4, 1)], ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_it_is_the_formula(name: str, shape: tuple[int, ...]) -> None:
    feature_map = normal(*shape, seed=1)
    expected = torch.from_numpy(FORMULAS[name](feature_map.numpy()).copy())
    torch.testing.assert_close(applied(name, feature_map), expected, rtol=1e-12, atol=1e-12)


def test_batch_norm_is_torchs_without_parameters() -> None:
    feature_map = normal(4, 3, 5, 5, seed=0)
    expected = functional.batch_norm(feature_map, None, None, training=True)
    torch.testing.assert_close(applied("batch_norm", feature_map), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["spatial_attention", "channel_attention", "sample_attention"])
def test_attention_is_the_sharper_the_lower_its_temperature(name: str) -> None:
    feature_map = normal(4, 6, 5, 5, seed=0)
    spreads = [
        float(applied(name, feature_map, {"temperature": temperature}).square().std())
        for temperature in (4.0, 0.5, 0.1)
    ]
    assert spreads == sorted(spreads)
    assert spreads[-1] > 1.5 * spreads[0]


class TestRandomMask:
    def drawn(self, *, seed: int = 0, ratio: float = 0.65, channels: int = 4) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        operator = get(Kind.OPERATOR, "random_mask").bound({"ratio": ratio})
        student, teacher = operator(1 + torch.rand(32, 4, 8, 8), -1 - torch.rand(32, channels, 8, 8))
        return student, teacher

    @pytest.mark.parametrize("channels", [4, 7])
    def test_both_maps_lose_the_same_places_in_all_channels(self, channels: int) -> None:
        student, teacher = self.drawn(channels=channels)
        lost = student == 0
        assert torch.equal(lost.any(dim=1), lost.all(dim=1))
        assert torch.equal(lost[:, :1].expand_as(teacher), teacher == 0)

    @pytest.mark.parametrize("ratio", [0.2, 0.65, 0.9])
    def test_so_many_places_are_lost(self, ratio: float) -> None:
        student, _ = self.drawn(ratio=ratio)
        share = float((student[:, 0] == 0).double().mean())
        assert share == pytest.approx(ratio, abs=4 * (ratio * (1 - ratio) / 2048) ** 0.5)

    def test_what_is_left_is_as_it_was(self) -> None:
        torch.manual_seed(3)
        maps = normal(8, 4, 6, 6, seed=0), normal(8, 4, 6, 6, seed=1)
        for before, after in zip(maps, get(Kind.OPERATOR, "random_mask").bound()(*maps), strict=True):
            assert torch.equal(after[after != 0], before[after != 0])
            assert (after != 0).any()

    def test_the_same_seed_gives_the_same_mask_and_another_another(self) -> None:
        (one, _), (again, _), (other, _) = self.drawn(seed=1), self.drawn(seed=1), self.drawn(seed=2)
        assert torch.equal(one == 0, again == 0)
        assert not torch.equal(one == 0, other == 0)

    def test_of_one_place_channels_are_lost_or_whole_images_where_channels_differ(self) -> None:
        torch.manual_seed(0)
        operator = get(Kind.OPERATOR, "random_mask").bound()
        student, teacher = operator(torch.ones(16, 20, 1, 1), torch.ones(16, 20, 1, 1))
        assert torch.equal(student, teacher)
        assert float(student.std(dim=1).min()) > 0
        student, teacher = operator(torch.ones(16, 20, 1, 1), torch.ones(16, 8, 1, 1))
        assert torch.equal(student[:, :8], teacher)
        assert set(student.mean(dim=(1, 2, 3)).tolist()) == {0.0, 1.0}
