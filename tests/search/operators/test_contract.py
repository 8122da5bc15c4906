"""What every operator keeps, alone and in chains, over the registry: a new one is covered at once."""

from __future__ import annotations

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from search.operators import build_operators
from search.pathways.mse import mean_squared_error
from search.registry import InvalidConfigError, Kind, UnknownMethodError, get, methods
from tests.search.operators.chains import OPERATORS, random_chains, through
from tests.search.pathways.maps import CASES, case_of, normal

CHAINS = [*(f"identity+{name}" for name in OPERATORS), *random_chains(10)]
FILLS = [0.0, 1.0, 0.1, 1e-20, 1e-6, 1e4]


def teacher_of(case: str) -> Tensor:
    return case_of(case).teacher_map


@pytest.mark.parametrize("chain", CHAINS)
class TestEveryChain:
    def test_both_maps_leave_in_one_shape_and_finite(self, chain: str) -> None:
        for case in CASES:
            teacher = teacher_of(case)
            found = through(chain, teacher + normal(*teacher.shape, seed=1), teacher)
            shapes = {tuple(one.shape) for one in found}
            assert len(shapes) == 1
            assert all(one.ndim == 4 and torch.isfinite(one).all() for one in found)

    def test_equal_maps_stay_equal_and_the_seed_decides(self, chain: str) -> None:
        feature_map = normal(5, 6, 8, 8, seed=0)
        one, other = through(chain, feature_map, feature_map.clone(), seed=4)
        assert torch.equal(one, other)
        assert torch.equal(one, through(chain, feature_map, feature_map, seed=4)[0])

    @pytest.mark.parametrize("size", [(1, 8, 4, 4), (3, 8, 4, 4), (3, 8, 1, 1), (3, 1, 3, 2)], ids=str)
    def test_maps_that_say_nothing_give_finite_values_and_derivatives(
        self, chain: str, size: tuple[int, ...]
    ) -> None:
        """Silent, constant, tiny and large ones in float32, of several sizes and of one place."""
        for fill in FILLS:
            flat, other = torch.full(size, fill), normal(*size, seed=0, dtype=torch.float32)
            student = flat.clone().requires_grad_()
            found, beside = through(chain, student, other)
            slope = torch.autograd.grad(
                mean_squared_error(found, beside), student, create_graph=True, materialize_grads=True
            )[0]
            assert torch.isfinite(found).all()
            assert torch.isfinite(slope).all()
            if slope.requires_grad:
                (second,) = torch.autograd.grad((slope * other).sum(), student, materialize_grads=True)
                assert torch.isfinite(second).all()
            with torch.no_grad(), forward_ad.dual_level():
                dual = forward_ad.make_dual(flat, other)
                tangent = forward_ad.unpack_dual(through(chain, dual, other)[0]).tangent
                assert tangent is None or torch.isfinite(tangent).all()

    @pytest.mark.parametrize("case", ["cnn-last", "vit-up"])
    def test_forward_mode_is_reverse_mode(self, chain: str, case: str) -> None:
        teacher = teacher_of(case)
        student = (1.5 * teacher + 0.1 * normal(*teacher.shape, seed=1)).requires_grad_()
        tangent = normal(*teacher.shape, seed=2)
        found, _ = through(chain, student, teacher)
        along = normal(*found.shape, seed=3)
        slope = torch.autograd.grad(
            (found * along).sum(), student, allow_unused=True, materialize_grads=True
        )[0]
        with torch.no_grad(), forward_ad.dual_level():
            dual = forward_ad.make_dual(student.detach(), tangent)
            moved = forward_ad.unpack_dual(through(chain, dual, teacher)[0]).tangent
        expected = float((slope * tangent).sum())
        given = 0.0 if moved is None else float((moved * along).sum())
        size = float((slope * tangent).abs().sum())
        assert given == pytest.approx(expected, rel=1e-9, abs=1e-12 * size + 1e-15)

    def test_second_derivatives_are_the_differences_of_first_ones(self, chain: str) -> None:
        student = normal(3, 4, 5, 4, seed=0).requires_grad_()
        teacher, tangent = normal(3, 4, 5, 4, seed=1), normal(3, 4, 5, 4, seed=2)

        def slope(at: Tensor, *, create_graph: bool = False) -> Tensor:
            loss = mean_squared_error(*through(chain, at, teacher))
            (found,) = torch.autograd.grad(loss, at, create_graph=create_graph, materialize_grads=True)
            return found

        first = slope(student, create_graph=True)
        (found,) = torch.autograd.grad((first * tangent).sum(), student, materialize_grads=True)
        ahead, behind = (
            slope((student.detach() + sign * 1e-6 * tangent).requires_grad_()) for sign in (1, -1)
        )
        expected = (ahead - behind) / 2e-6
        scale = float(found.abs().max())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale + 1e-8)

    def test_in_bfloat16_it_is_about_what_it_is_in_float32(self, chain: str) -> None:
        feature_map = normal(6, 8, 8, 8, seed=0, dtype=torch.float32).bfloat16()
        student = feature_map.clone().requires_grad_()
        found, _ = through(chain, student, feature_map)
        assert found.dtype == torch.bfloat16
        exact, _ = through(chain, feature_map.float(), feature_map.float())
        assert (found.float() - exact).norm() <= 0.05 * exact.norm() + 0.05
        slopes = torch.autograd.grad(found.float().square().mean(), student)
        assert torch.isfinite(slopes[0]).all()


@pytest.mark.parametrize("name", OPERATORS)
def test_values_of_unit_size_leave_at_about_that_size(name: str) -> None:
    """So that a distance after an operator is of the size that it is without."""
    one, other = through(f"identity+{name}", normal(32, 16, 8, 8, seed=0), normal(32, 16, 8, 8, seed=1))
    least = 0.01 if name == "min_max" else 0.1  # between 0 and 1, as published
    assert least < float((one - other).square().mean()) < 30


def test_every_range_of_a_card_lies_within_its_setting() -> None:
    for method in methods(Kind.OPERATOR):
        for setting, searched in method.card.ranges().items():
            for value in (searched["low"], searched["high"]):
                assert getattr(method.configured({setting: value}), setting) == value


class TestBuilding:
    def test_settings_are_those_of_the_operator_that_they_name(self) -> None:
        chain = "projection+channel_attention+random_mask"
        attention, mask = build_operators(chain, {"random_mask.ratio": 0.0, "width": 3})
        maps = normal(2, 3, 4, 4, seed=0), normal(2, 3, 4, 4, seed=1)
        assert all(torch.equal(*pair) for pair in zip(mask(*maps), maps, strict=True))
        usual = get(Kind.OPERATOR, "channel_attention").bound({"temperature": 0.5})
        assert all(torch.equal(*pair) for pair in zip(attention(*maps), usual(*maps), strict=True))

    def test_a_transform_alone_has_none(self) -> None:
        assert build_operators("projection", {"width": 3}) == []

    @pytest.mark.parametrize(
        ("chain", "config", "error", "words"),
        [
            ("identity+max_pol2", {}, UnknownMethodError, "unknown operator 'max_pol2'"),
            ("identity++max_pool2", {}, UnknownMethodError, "unknown operator ''"),
            ("identity+random_mask", {"random_mask.share": 0.1}, InvalidConfigError, "share"),
            ("identity+random_mask", {"random_mask.ratio": 2.0}, InvalidConfigError, "at most 0.99"),
            ("identity+max_pool2", {"random_mask.ratio": 0.1}, InvalidConfigError, "operators: max_pool2"),
            ("identity", {"random_mask.ratio": 0.1}, InvalidConfigError, "operators: none"),
        ],
    )
    def test_what_is_wrong_is_said_in_words(
        self, chain: str, config: dict[str, float], error: type[Exception], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            build_operators(chain, config)
