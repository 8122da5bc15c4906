"""Distances: the contract over the registry, and each formula by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F  # noqa: N812
from scipy.integrate import quad
from scipy.special import log_softmax
from torch import Tensor

from search.pathways.attention import attention_transfer
from search.pathways.correlation import correlation_distance
from search.pathways.cosine import cosine_distance
from search.pathways.gram import similarity_preserving
from search.pathways.hcl import hierarchical_context
from search.pathways.kl import divergence
from search.pathways.l1 import mean_absolute_error
from search.pathways.mse import mean_squared_error
from search.pathways.pearson import pearson_distance
from search.pathways.smooth_l1 import smooth_absolute_error
from search.registry import Kind, get, methods
from tests.search.pathways.maps import CASES, case_of, normal

DISTANCES = [method.name for method in methods(Kind.DISTANCE)]
SHAPES = [(64, 16, 8, 8), (16, 64, 4, 4), (64, 32, 1, 1), (32, 8, 7, 5), (128, 4, 2, 2), (32, 3, 16, 16)]
DRAWS = 40


def distance(name: str, student_map: Tensor, teacher_map: Tensor) -> Tensor:
    value: Tensor = get(Kind.DISTANCE, name).factory(student_map, teacher_map)
    return value


def ends(name: str) -> list[dict[str, Any]]:
    """Settings with every end of a usual range, and the first and last of what there is to choose from."""
    card = get(Kind.DISTANCE, name).card
    found = [{setting: one[end]} for setting, one in card.ranges().items() for end in ("low", "high")]
    properties = card.config.model_json_schema().get("properties", {})
    choices = {setting: one["enum"] for setting, one in properties.items() if "enum" in one}
    return [*found, *({setting: values[at]} for setting, values in choices.items() for at in (0, -1))]


def is_blind(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the distance says nothing of maps of this shape."""
    return get(Kind.DISTANCE, name).card.compares_places and shape[-1] * shape[-2] == 1


@pytest.mark.parametrize("name", DISTANCES)
class TestEveryDistance:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_one_by_chance(self, name: str, shape: tuple[int, ...]) -> None:
        """Between independent maps of unit variance, whatever their size: one range of weights fits all."""
        found = [
            float(distance(name, normal(*shape, seed=2 * draw), normal(*shape, seed=2 * draw + 1)))
            for draw in range(DRAWS)
        ]
        if is_blind(name, shape):
            assert max(found) == 0.0
            return
        error = np.std(found) / DRAWS**0.5
        # The expectations of attention and gram are of first order in one over places: 8% at 2x2.
        assert np.mean(found) == pytest.approx(1.0, abs=4 * error + (0.09 if shape[-1] == 2 else 0.02))

    def test_where_channels_disagree_it_is_as_declared(self, name: str) -> None:
        if not get(Kind.DISTANCE, name).card.ignores_channels:
            with pytest.raises(RuntimeError, match="size"):
                distance(name, normal(2, 8, 6, 6, seed=0), normal(2, 24, 6, 6, seed=1))
            return
        found = [
            float(distance(name, normal(64, 8, 6, 6, seed=draw), normal(64, 24, 6, 6, seed=100 + draw)))
            for draw in range(DRAWS)
        ]
        assert np.mean(found) == pytest.approx(1.0, abs=0.03)

    @pytest.mark.parametrize("shape", [(3, 4, 3, 2), (2, 3, 1, 1), (1, 2, 2, 3)], ids=str)
    def test_its_derivatives_are_those_of_finite_differences(self, name: str, shape: tuple[int, ...]) -> None:
        """Reverse mode, forward mode, and the second derivative that looking several steps ahead needs."""
        student, teacher = normal(*shape, seed=0).requires_grad_(), normal(*shape, seed=1)
        torch.autograd.gradcheck(lambda s: distance(name, s, teacher), student, check_forward_ad=True)
        torch.autograd.gradgradcheck(lambda s: distance(name, s, teacher), student)

    @pytest.mark.parametrize("case", CASES)
    def test_on_real_maps_forward_mode_is_reverse_mode_in_both_maps(self, name: str, case: str) -> None:
        """The teacher's too, which a transform may have changed; a pathway cuts off what lies before that."""
        teacher = case_of(case).teacher_map.clone().requires_grad_()
        student = (teacher.detach() * 1.5 + 0.1).requires_grad_()
        tangents = [normal(*teacher.shape, seed=seed) for seed in (2, 3)]
        value = distance(name, student, teacher)
        value.backward()
        assert value.shape == ()
        for leaf in (student, teacher):
            assert leaf.grad is not None
            assert leaf.grad.abs().sum() > 0 or is_blind(name, teacher.shape)
        with torch.no_grad(), forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(tensor.detach(), tangent)
                for tensor, tangent in zip((student, teacher), tangents, strict=True)
            ]
            derivative = forward_ad.unpack_dual(distance(name, *duals)).tangent
        expected = sum(
            float((leaf.grad * tangent).sum())
            for leaf, tangent in zip((student, teacher), tangents, strict=True)
            if leaf.grad is not None
        )
        assert float(derivative) == pytest.approx(expected, rel=1e-9, abs=1e-15)

    @pytest.mark.parametrize("case", CASES)
    def test_zero_between_equal_maps_and_positive_between_others(self, name: str, case: str) -> None:
        teacher = case_of(case).teacher_map
        assert abs(float(distance(name, teacher, teacher.clone()))) < 1e-12
        found = float(distance(name, teacher + normal(*teacher.shape, seed=0), teacher))
        assert found == 0 if is_blind(name, teacher.shape) else found > 1e-4

    def test_images_are_compared_with_each_other_where_its_card_asks_for_several(self, name: str) -> None:
        """Else the distance of a batch is the mean of its halves'."""
        student, teacher = normal(8, 6, 4, 4, seed=0), normal(8, 6, 4, 4, seed=1)
        halves = [distance(name, student[rows], teacher[rows]) for rows in (slice(4), slice(4, 8))]
        is_mean = torch.allclose(distance(name, student, teacher), torch.stack(halves).mean(), rtol=1e-9)
        assert is_mean == (get(Kind.DISTANCE, name).card.least_batch == 1)

    @pytest.mark.parametrize("fill", [0.0, 1.0, 1e-20, 1e-6, 1e4])
    @pytest.mark.parametrize("batch", [1, 3])
    def test_maps_that_say_nothing_give_finite_values_and_derivatives(
        self, name: str, fill: float, batch: int
    ) -> None:
        """Silent, constant, tiny and large ones in float32; on either side, and on both."""
        flat, other = torch.full((batch, 8, 4, 4), fill), normal(batch, 8, 4, 4, seed=0, dtype=torch.float32)
        for student_map, teacher_map in ((flat, other), (other, flat), (flat, flat)):
            student = student_map.clone().requires_grad_()
            value = distance(name, student, teacher_map)
            value.backward()
            assert torch.isfinite(value)
            assert student.grad is not None
            assert torch.isfinite(student.grad).all()
            with torch.no_grad(), forward_ad.dual_level():
                dual = forward_ad.make_dual(student_map, other)
                assert torch.isfinite(forward_ad.unpack_dual(distance(name, dual, teacher_map)).tangent)

    def test_its_gradient_stays_moderate_where_a_few_places_and_samples_are_silent(self, name: str) -> None:
        """Maps after a ReLU have such places; a direction's gradient would grow there without end."""
        student, teacher = (normal(8, 6, 4, 4, seed=seed).relu() for seed in (0, 1))
        student[0], student[1, :, 0, 0], student[2] = 0.0, 1e-9, 1e-9 * student[2]
        loud = student[3:].clone().requires_grad_()
        quiet = student.clone().requires_grad_()
        for leaf, target in ((loud, teacher[3:]), (quiet, teacher)):
            distance(name, leaf, target).backward()
        assert quiet.grad is not None
        assert loud.grad is not None
        assert quiet.grad[:3].abs().max() <= 300 * loud.grad.abs().max()

    def test_it_is_symmetric_but_for_the_divergence(self, name: str) -> None:
        student, teacher = normal(3, 5, 8, 8, seed=0), normal(3, 5, 8, 8, seed=1)
        one, other = distance(name, student, teacher), distance(name, teacher, student)
        assert torch.isclose(one, other) == (name != "kl")

    def test_with_other_settings_it_is_one_by_chance_too(self, name: str) -> None:
        """At both ends of what is usually searched; a list's first and last values."""
        shape = (32, 12, 8, 8)
        for config in ends(name):
            bound = get(Kind.DISTANCE, name).bound(config)
            found = [
                float(bound(normal(*shape, seed=2 * draw), normal(*shape, seed=2 * draw + 1)))
                for draw in range(12)
            ]
            assert np.mean(found) == pytest.approx(1.0, abs=0.02 + 4 * np.std(found) / 12**0.5), config

    def test_in_bfloat16_it_is_about_what_it_is_in_float32(self, name: str) -> None:
        student, teacher = (normal(8, 6, 4, 4, seed=seed).bfloat16() for seed in (0, 1))
        leaf = student.clone().requires_grad_()
        found = distance(name, leaf, teacher)
        found.backward()
        assert float(found.detach()) == pytest.approx(
            float(distance(name, student.float(), teacher.float())), rel=0.03
        )
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


class TestFormulas:
    student = normal(3, 5, 8, 8, seed=0)
    teacher = normal(3, 5, 8, 8, seed=1)

    def test_mse(self) -> None:
        expected = ((self.student.numpy() - self.teacher.numpy()) ** 2).mean() / 2
        assert float(mean_squared_error(self.student, self.teacher)) == pytest.approx(expected, rel=1e-12)

    def test_l1(self) -> None:
        expected = np.abs(self.student.numpy() - self.teacher.numpy()).mean() / (2 / np.sqrt(np.pi))
        assert float(mean_absolute_error(self.student, self.teacher)) == pytest.approx(expected, rel=1e-12)

    def test_smooth_l1(self) -> None:
        differences = np.linspace(-20, 20, 2_000_001)
        density = np.exp(-(differences**2) / 4) / np.sqrt(4 * np.pi)
        huber = np.where(abs(differences) < 1, differences**2 / 2, abs(differences) - 0.5)
        by_chance = np.trapezoid(density * huber, differences)
        expected = float(F.smooth_l1_loss(self.student, self.teacher)) / by_chance
        found = float(smooth_absolute_error(self.student, self.teacher))
        assert found == pytest.approx(expected, rel=1e-8)

    def test_smooth_l1_is_curved_where_maps_agree(self) -> None:
        """As two maps after a ReLU do where both are silent."""
        student = torch.zeros(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
        value = smooth_absolute_error(student, torch.zeros(1, 1, 2, 2, dtype=torch.float64))
        (slope,) = torch.autograd.grad(value, student, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), student)
        assert curvature.flatten().tolist() == pytest.approx([1 / 4 / 0.72015] * 4, rel=1e-3)

    def test_cosine(self) -> None:
        expected = 1 - float(F.cosine_similarity(self.student, self.teacher, dim=1).mean())
        assert float(cosine_distance(self.student, self.teacher)) == pytest.approx(expected, rel=1e-10)

    def test_pearson(self) -> None:
        def centred(values: np.ndarray) -> np.ndarray:
            return values - values.mean(axis=1, keepdims=True)

        one, other = centred(self.student.numpy()), centred(self.teacher.numpy())
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        expected = 1 - ((one * other).sum(axis=1) / lengths).mean()
        assert float(pearson_distance(self.student, self.teacher)) == pytest.approx(expected, rel=1e-12)

    def test_pearson_ignores_mean_and_scale_of_a_places_channels(self) -> None:
        scale, mean = 0.5 + normal(3, 1, 8, 8, seed=7).abs(), 0.3 * normal(3, 1, 8, 8, seed=8)
        assert float(pearson_distance(scale * self.teacher + mean, self.teacher)) == pytest.approx(
            0, abs=1e-12
        )
        assert float(pearson_distance(-self.teacher, self.teacher)) == pytest.approx(2.0)

    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    def test_kl(self, temperature: float) -> None:
        one, other = (
            log_softmax(values.numpy() / temperature, axis=1) for values in (self.student, self.teacher)
        )
        published = (np.exp(other) * (other - one)).sum(axis=1).mean()
        generator = np.random.default_rng(0)
        draws = [log_softmax(generator.normal(size=(400_000, 5)) / temperature, axis=1) for _ in range(2)]
        by_chance = (np.exp(draws[0]) * (draws[0] - draws[1])).sum(axis=1).mean()
        bound = get(Kind.DISTANCE, "kl").bound({"temperature": temperature})
        assert float(bound(self.student, self.teacher)) == pytest.approx(published / by_chance, rel=0.01)

    def test_kl_is_the_teachers_divergence_and_ignores_what_all_channels_have_in_common(self) -> None:
        student = self.student + normal(3, 1, 8, 8, seed=3)
        found = float(divergence(student, self.teacher))
        assert found == pytest.approx(float(divergence(self.student, self.teacher)), rel=1e-12)
        kl = torch.distributions.kl_divergence(*(
            torch.distributions.Categorical(logits=values.movedim(1, -1))
            for values in (self.teacher, self.student)
        ))  # fmt: skip
        again = torch.distributions.kl_divergence(*(
            torch.distributions.Categorical(logits=values.movedim(1, -1))
            for values in (self.teacher, 2 * self.student)
        ))  # fmt: skip
        ratio = float(divergence(2 * self.student, self.teacher)) / found
        assert ratio == pytest.approx(float(again.mean() / kl.mean()), rel=1e-12)

    def test_correlation(self) -> None:
        def standardised(values: np.ndarray) -> np.ndarray:
            return ((values - values.mean(axis=0)) / values.std(axis=0)).reshape(len(values), -1)

        student, teacher = normal(16, 5, 4, 4, seed=0), normal(16, 5, 4, 4, seed=1)
        correlations = (standardised(student.numpy()) * standardised(teacher.numpy())).mean(axis=0)
        published = (np.abs(correlations - 1) ** 2.02).sum()
        moments, _ = quad(lambda r: (1 - r) ** 2.02 * (1 - r * r) ** 6, -1, 1)
        whole, _ = quad(lambda r: (1 - r * r) ** 6, -1, 1)
        expected = np.log2(1 + published / 80 / (moments / whole))
        assert float(correlation_distance(student, teacher)) == pytest.approx(expected, rel=1e-9)

    def test_correlation_ignores_each_values_mean_and_scale(self) -> None:
        scale, mean = 0.5 + normal(1, 5, 8, 8, seed=7).abs(), 0.3 * normal(1, 5, 8, 8, seed=8)
        changed = scale * self.teacher + mean
        assert float(correlation_distance(changed, self.teacher)) == pytest.approx(0.0, abs=1e-12)

    @pytest.mark.parametrize("name", ["cosine", "pearson", "correlation"])
    def test_angles_are_zero_between_equal_maps_that_are_silent_in_part(self, name: str) -> None:
        teacher = self.teacher.clone()
        teacher[:, :, 0], teacher[:, 0] = 0.0, 0.0
        assert float(distance(name, teacher, teacher.clone())) == 0.0

    @pytest.mark.parametrize("threshold", [0.3, 1.0, 4.0])
    def test_smooth_l1_of_any_threshold_is_hubers(self, threshold: float) -> None:
        expected = F.smooth_l1_loss(self.student, self.teacher, beta=threshold)

        def chance(d: float) -> float:
            huber = d * d / 2 / threshold if d < threshold else d - threshold / 2
            return float(huber * np.exp(-d * d / 4) / np.sqrt(np.pi))

        by_chance = quad(chance, 0, threshold)[0] + quad(chance, threshold, 20)[0]
        bound = get(Kind.DISTANCE, "smooth_l1").bound({"threshold": threshold})
        found = float(bound(self.student, self.teacher))
        assert found == pytest.approx(float(expected) / by_chance, rel=1e-6)

    def test_gram_is_similarity_preserving_distillation(self) -> None:
        def rows(feature_map: Tensor) -> np.ndarray:
            flat = feature_map.flatten(1).numpy()
            similarity = flat @ flat.T
            return similarity / np.linalg.norm(similarity, axis=1, keepdims=True)

        published = ((rows(self.student) - rows(self.teacher)) ** 2).sum() / 3**2
        by_chance = 2 - 2 / (1 + 2 / 320)
        found = float(similarity_preserving(self.student, self.teacher))
        assert found == pytest.approx(published * 3 / by_chance, rel=1e-10)

    @pytest.mark.system("sp")
    def test_gram_ignores_scale_rotation_channels_and_sizes(self) -> None:
        rotation, _ = torch.linalg.qr(normal(320, 320, seed=5))
        rotated = (3.7 * self.teacher.flatten(1) @ rotation).reshape(3, 20, 4, 4)
        assert float(similarity_preserving(rotated, self.teacher)) == pytest.approx(0.0, abs=1e-18)

    @pytest.mark.parametrize("grid_weight", [0.5, 0.8])
    @pytest.mark.parametrize(
        ("side", "finest", "levels"),
        [(8, 4, (4, 2, 1)), (4, 4, (2, 1)), (2, 4, (1,)), (1, 4, ()), (8, 2, (2, 1)), (8, 8, (4, 2, 1))],
    )
    def test_hcl(self, side: int, finest: int, levels: tuple[int, ...], grid_weight: float) -> None:
        student, teacher = (m[:, :, :side, :side].numpy() for m in (self.student, self.teacher))

        def pooled(values: np.ndarray, level: int) -> np.ndarray:
            cell = side // level
            return values.reshape(3, 5, level, cell, level, cell).mean(axis=(3, 5))

        total, by_chance = ((student - teacher) ** 2).mean(), 2.0
        for order, level in enumerate(levels, start=1):
            weight = grid_weight**order
            total += weight * ((pooled(student, level) - pooled(teacher, level)) ** 2).mean()
            by_chance += weight * 2 * (level / side) ** 2
        settings = {"finest_grid": finest, "grid_weight": grid_weight}
        bound = get(Kind.DISTANCE, "hcl").bound(settings)
        found = bound(torch.from_numpy(student), torch.from_numpy(teacher))
        if (finest, grid_weight) == (4, 0.5):
            usual = hierarchical_context(torch.from_numpy(student), torch.from_numpy(teacher))
            assert torch.equal(found, usual)
        assert float(found) == pytest.approx(total / by_chance, rel=1e-12)

    @pytest.mark.parametrize("sides", [(8, 8), (12, 4), (7, 5), (6, 6), (14, 14), (8, 6)], ids=str)
    def test_hcl_from_coarser_grids_is_hcl_from_the_whole_map(self, sides: tuple[int, int]) -> None:
        """The simple twin averages the maps anew on every grid, as ReviewKD does."""
        student, teacher = normal(2, 3, *sides, seed=0).requires_grad_(), normal(2, 3, *sides, seed=1)

        def parts(one: Tensor, other: Tensor) -> list[Tensor]:
            grids = [level for level in (4, 2, 1) if level < min(sides)]
            maps = [[one, other], *([F.adaptive_avg_pool2d(m, grid) for m in (one, other)] for grid in grids)]
            return [F.mse_loss(*pair) / 2**order for order, pair in enumerate(maps)]

        expected = torch.stack(parts(student, teacher)).sum()
        (slope,) = torch.autograd.grad(expected, student)
        found = hierarchical_context(student, teacher)
        (found_slope,) = torch.autograd.grad(found, student)
        factor = float(expected.detach() / found.detach())
        torch.testing.assert_close(factor * found_slope, slope, rtol=1e-12, atol=1e-15)
        # What differs is a constant of the size: the expectation between independent maps.
        other = student.detach() + 1.0
        again = factor * hierarchical_context(other, teacher)
        assert float(again) == pytest.approx(float(torch.stack(parts(other, teacher)).sum()))

    def test_attention(self) -> None:
        def activity(values: np.ndarray) -> np.ndarray:
            flat = (values**2).mean(axis=1).reshape(3, -1)
            return flat / np.sqrt((flat**2).sum(axis=1, keepdims=True))

        published = ((activity(self.student.numpy()) - activity(self.teacher.numpy())) ** 2).mean()
        by_chance = (1 - 1 / 64) * (2 - 2 / (1 + 2 / 5))
        found = float(attention_transfer(self.student, self.teacher))
        assert found == pytest.approx(published * 64 / by_chance, rel=1e-10)

    @pytest.mark.system("at")
    def test_attention_ignores_scale_and_the_order_and_number_of_channels(self) -> None:
        changed = torch.cat([3.7 * self.teacher.flip(1)] * 2, dim=1)
        assert float(attention_transfer(changed, self.teacher)) == pytest.approx(0.0, abs=1e-18)

    @pytest.mark.parametrize("scale_free", [attention_transfer, cosine_distance, similarity_preserving])
    def test_what_ignores_scale_tells_tiny_activations_apart(self, scale_free) -> None:
        found = scale_free(1e-6 * self.student, self.teacher)
        assert float(found) == pytest.approx(float(scale_free(self.student, self.teacher)), rel=1e-9)
