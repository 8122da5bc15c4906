"""Each logit loss against a formula of its own in numpy, and the property by which its system is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import JsonValue
from scipy import special, stats

from search.logits.balance_divergence import BalanceDivergence
from search.logits.correlation_distance import soft_ranks
from search.logits.logit_std import standardised
from search.logits.uncertainty_weighted import certainty
from search.logits.wsld import weights
from search.registry import InvalidConfigError, Kind, get
from tests.search.logits.logits import CLASSES, IMAGES, logits_of, loss_of, targets

Array = npt.NDArray[np.float64]
ROWS = np.arange(IMAGES)
LABELS = targets().numpy()
STUDENT, TEACHER = logits_of(0).numpy(), logits_of(1).numpy()


def p(logits: Array, temperature: float = 1.0) -> Array:
    softened: Array = special.softmax(logits / temperature, axis=1)
    return softened


def kl(target: Array, other: Array) -> Array:
    divergence: Array = special.rel_entr(target, other).sum(axis=1)
    return divergence


def rest_of(probabilities: Array) -> Array:
    """The other classes' probabilities, renormalised, (B, K - 1)."""
    others = np.stack([np.delete(row, label) for row, label in zip(probabilities, LABELS, strict=True)])
    renormalised: Array = others / others.sum(axis=1, keepdims=True)
    return renormalised


def found(name: str, temperature: float = 2.0, **config: JsonValue) -> float:
    return float(loss_of(name, logits_of(0), logits_of(1), temperature=temperature, **config))


@pytest.mark.system("dkd")
class TestDecoupled:
    def binary(self, logits: Array, temperature: float) -> Array:
        target = p(logits, temperature)[ROWS, LABELS]
        return np.stack([target, 1 - target], axis=1)

    def test_formula(self) -> None:
        target = kl(self.binary(TEACHER, 4.0), self.binary(STUDENT, 4.0)).mean()
        rest = kl(rest_of(p(TEACHER, 4.0)), rest_of(p(STUDENT, 4.0))).mean()
        assert found("dkd", 4.0) == pytest.approx(16 * (target + 8 * rest), rel=1e-12)
        weighted = found("dkd", 4.0, target_weight=0.5, rest_weight=3.0)
        assert weighted == pytest.approx(16 * (0.5 * target + 3 * rest), rel=1e-12)

    def test_kd_is_the_target_part_and_the_rest_weighed_by_how_unsure_the_teacher_is(self) -> None:
        """So alpha = beta = 1 is not KD."""
        target = kl(self.binary(TEACHER, 2.0), self.binary(STUDENT, 2.0))
        rest = kl(rest_of(p(TEACHER, 2.0)), rest_of(p(STUDENT, 2.0)))
        unsure = 1 - p(TEACHER, 2.0)[ROWS, LABELS]
        assert found("kd") == pytest.approx(4 * (target + unsure * rest).mean(), rel=1e-12)
        assert found("dkd", target_weight=1.0, rest_weight=1.0) != pytest.approx(found("kd"), rel=1e-3)


@pytest.mark.system("dist")
class TestDist:
    def test_formula(self) -> None:
        student, teacher = p(STUDENT, 2.0), p(TEACHER, 2.0)

        def distance(one: Array, other: Array) -> float:
            pairs = zip(one, other, strict=True)
            return 1 - float(np.mean([np.corrcoef(row, column)[0, 1] for row, column in pairs]))

        classes, images = distance(student, teacher), distance(student.T, teacher.T)
        assert found("dist") == pytest.approx(4 * (classes + images), rel=1e-10)
        weighted = found("dist", between_classes_weight=2.0, between_images_weight=0.5)
        assert weighted == pytest.approx(4 * (2 * classes + 0.5 * images), rel=1e-10)

    def test_a_row_of_probabilities_that_is_scaled_and_shifted_is_the_same(self) -> None:
        rows = p(TEACHER)
        moved = 0.5 * rows + 0.5 / CLASSES
        value = loss_of("dist", torch.from_numpy(np.log(moved)), logits_of(1), temperature=1.0)
        assert abs(float(value)) < 1e-12


@pytest.mark.system("nkd")
class TestNormalised:
    def test_formula(self) -> None:
        target = -(p(TEACHER)[ROWS, LABELS] * np.log(p(STUDENT)[ROWS, LABELS])).mean()
        rest = -(rest_of(p(TEACHER, 2.0)) * np.log(rest_of(p(STUDENT, 2.0)))).sum(axis=1).mean()
        assert found("nkd") == pytest.approx(target + 1.5 * 4 * rest, rel=1e-12)
        assert found("nkd", rest_weight=0.5) == pytest.approx(target + 0.5 * 4 * rest, rel=1e-12)

    def test_the_rest_is_a_divergence_and_a_constant_and_the_target_pulls_beyond_the_teacher(self) -> None:
        """Between equals only the target's term has a gradient, and it raises the target's logit."""
        student = logits_of(1).requires_grad_()
        (slope,) = torch.autograd.grad(loss_of("nkd", student, logits_of(1)), student)
        at_target = slope.gather(1, targets()[:, None])
        assert (at_target < 0).all()
        teacher = torch.from_numpy(p(TEACHER)[ROWS, LABELS])
        assert torch.allclose(at_target[:, 0], -teacher * (1 - teacher) / IMAGES)


@pytest.mark.system("wsld")
class TestWeightedSoftLabels:
    def test_formula(self) -> None:
        own, teachers = (-np.log(p(logits)[ROWS, LABELS]) for logits in (STUDENT, TEACHER))
        soft = -(p(TEACHER, 2.0) * np.log(p(STUDENT, 2.0))).sum(axis=1)
        expected = 4 * ((1 - np.exp(-own / teachers)) * soft).mean()
        assert found("wsld") == pytest.approx(expected, rel=1e-12)

    def test_the_weight_lies_between_0_and_1_and_is_known_between_equals(self) -> None:
        found = weights(logits_of(0), logits_of(1), targets())
        assert ((found > 0) & (found <= 1)).all()
        equal = weights(logits_of(0), logits_of(0), targets())
        assert torch.allclose(equal, torch.full_like(equal, 1 - np.exp(-1)))

    def test_the_weight_has_no_gradient(self) -> None:
        student = logits_of(0).requires_grad_()
        assert not weights(student, logits_of(1), targets()).requires_grad


@pytest.mark.system("ttm")
class TestTransformedTeacher:
    def power(self, temperature: float) -> tuple[Array, Array]:
        raised = p(TEACHER) ** (1 / temperature)
        total = raised.sum(axis=1, keepdims=True)
        return raised / total, total[:, 0]

    def test_formula(self) -> None:
        raised, total = self.power(10.0)
        assert found("ttm", 10.0) == pytest.approx(kl(raised, p(STUDENT)).mean(), rel=1e-12)
        weighted = (total * kl(raised, p(STUDENT))).mean()
        assert found("wttm", 10.0) == pytest.approx(weighted, rel=1e-12)

    def test_a_power_of_1_is_kd_at_temperature_1(self) -> None:
        assert found("ttm", 1.0) == pytest.approx(found("kd", 1.0), rel=1e-12)
        assert found("wttm", 1.0) == pytest.approx(found("kd", 1.0), rel=1e-12)

    def test_unsure_images_weigh_more(self) -> None:
        sure, unsure = torch.tensor([[60.0] + [0.0] * 9]), torch.zeros(1, 10)
        student = torch.tensor([[1.0] + [0.0] * 9])
        for teacher, weight in ((sure, 1.0), (unsure, 10**0.75)):
            ratio = loss_of("wttm", student, teacher, temperature=4.0) / loss_of(
                "ttm", student, teacher, temperature=4.0
            )
            assert float(ratio) == pytest.approx(weight, rel=1e-5)


@pytest.mark.system("logit_std")
class TestLogitStandardisation:
    def test_formula(self) -> None:
        student, teacher = (stats.zscore(logits, axis=1, ddof=1) for logits in (STUDENT, TEACHER))
        expected = 4 * kl(p(teacher, 2.0), p(student, 2.0)).mean()
        assert found("logit_std") == pytest.approx(expected, rel=1e-12)

    def test_scaled_and_shifted_logits_are_the_same(self) -> None:
        moved = 7.0 * logits_of(0) - 3.0
        assert float(loss_of("logit_std", moved, logits_of(1))) == pytest.approx(
            found("logit_std"), rel=1e-12
        )
        assert float(loss_of("logit_std", -logits_of(0), logits_of(1))) != pytest.approx(found("logit_std"))

    def test_another_loss_can_be_inside(self) -> None:
        student, teacher = standardised(logits_of(0)), standardised(logits_of(1))
        expected = float(loss_of("dkd", student, teacher, rest_weight=2.0))
        assert found("logit_std", of="dkd", of_config={"rest_weight": 2.0}) == pytest.approx(expected)

    def test_it_cannot_be_inside_itself(self) -> None:
        with pytest.raises(InvalidConfigError, match="logit_std inside logit_std"):
            get(Kind.LOGIT_LOSS, "logit_std").build(config={"of": "logit_std"})

    def test_a_head_that_starts_at_zero_gets_a_gradient_of_the_usual_size(self) -> None:
        """timm's vision transformers do: 1 / 1e-7 would throw the first step off."""
        student = torch.zeros(IMAGES, CLASSES, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss_of("logit_std", student, logits_of(1)), student)
        (plain,) = torch.autograd.grad(loss_of("kd", student, standardised(logits_of(1))), student)
        assert 1 < float(slope.norm() / plain.norm()) <= 100


@pytest.mark.system("balance_divergence")
class TestBalanceDivergence:
    def test_formula(self) -> None:
        forward = 16 * kl(p(TEACHER, 4.0), p(STUDENT, 4.0)).mean()
        reverse = kl(p(STUDENT, 2.0), p(TEACHER, 2.0)).mean()
        assert found("balance_divergence", 4.0) == pytest.approx(forward + 4 * reverse, rel=1e-12)
        other = found("balance_divergence", 4.0, reverse_weight=0.5, reverse_temperature=1.0)
        expected = forward + 0.5 * kl(p(STUDENT), p(TEACHER)).mean()
        assert other == pytest.approx(expected, rel=1e-12)

    def test_without_the_reverse_part_it_is_kd(self) -> None:
        assert found("balance_divergence", reverse_weight=0.0) == pytest.approx(found("kd"), rel=1e-12)

    def test_the_reverse_part_pushes_harder_where_the_teacher_holds_a_class_unlikely(self) -> None:
        teacher = torch.tensor([[8.0, 0.0, -8.0]], dtype=torch.float64)
        student = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
        settings = get(Kind.LOGIT_LOSS, "balance_divergence").configured({"reverse_temperature": 1.0})
        both = BalanceDivergence(settings)  # type: ignore[arg-type]
        one = torch.tensor(1.0, dtype=torch.float64)

        def push(loss: torch.nn.Module) -> float:
            value = loss(
                student,
                teacher,
                teacher_temperature=one,
                student_temperature=one,
                targets=torch.tensor([0]),
            )
            return float(torch.autograd.grad(value, student)[0][0, 2])

        forward = push(both.loss)
        assert push(both) - forward > 2 * forward > 0


@pytest.mark.system("dual_student")
class TestUncertaintyWeight:
    def test_formula(self) -> None:
        weight = 1 - stats.entropy(p(TEACHER), axis=1) / np.log(CLASSES)
        expected = 4 * (weight * kl(p(TEACHER, 2.0), p(STUDENT, 2.0))).mean()
        assert found("uncertainty_weighted") == pytest.approx(expected, rel=1e-12)

    def test_a_teacher_that_knows_nothing_weighs_nothing_and_a_certain_one_all(self) -> None:
        rows = torch.tensor([[0.0] * CLASSES, [200.0] + [0.0] * (CLASSES - 1)], dtype=torch.float64)
        assert torch.allclose(certainty(rows), torch.tensor([0.0, 1.0], dtype=torch.float64))


class TestCorrelationDistance:
    def test_formula(self) -> None:
        def ranks(logits: Array) -> Array:
            deviation = logits.std(axis=1)[:, None, None]
            differences = (logits[:, :, None] - logits[:, None, :]) / (0.1 * deviation)
            smaller: Array = special.expit(differences).sum(axis=2)
            return smaller

        def distance(one: Array, other: Array) -> float:
            pairs = zip(one, other, strict=True)
            return 1 - float(np.mean([stats.pearsonr(a, b).statistic for a, b in pairs]))

        value = 4 * distance(p(STUDENT, 2.0), p(TEACHER, 2.0))
        rank = distance(ranks(STUDENT), ranks(TEACHER))
        assert found("correlation_distance") == pytest.approx(value + rank, rel=1e-10)
        other = found("correlation_distance", value_weight=0.5, rank_weight=2.0)
        assert other == pytest.approx(0.5 * value + 2 * rank, rel=1e-10)

    def test_hard_ranks_are_spearmans_and_unchanged_by_a_rising_function(self) -> None:
        hard = {"value_weight": 0.0, "rank_softness": 1e-12}
        expected = 1 - np.mean(
            [stats.spearmanr(a, b).statistic for a, b in zip(STUDENT, TEACHER, strict=True)]
        )
        assert found("correlation_distance", **hard) == pytest.approx(expected, rel=1e-9)
        risen = loss_of("correlation_distance", logits_of(0).exp(), logits_of(1), **hard)
        assert float(risen) == pytest.approx(expected, rel=1e-9)

    def test_values_scaled_and_shifted_are_the_same_and_both_parts_end_at_2(self) -> None:
        moved = torch.from_numpy(np.log(0.5 * p(TEACHER) + 0.5 / CLASSES))
        value = loss_of("correlation_distance", moved, logits_of(1), temperature=1.0, rank_weight=0.0)
        assert abs(float(value)) < 1e-12
        turned = loss_of("correlation_distance", -logits_of(1), logits_of(1), value_weight=0.0)
        assert float(turned) == pytest.approx(2.0, rel=1e-12)

    def test_ranks_count_from_1(self) -> None:
        ranks = soft_ranks(torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.float64), 1e-6)
        assert ranks.tolist() == [[3.0, 1.0, 2.0]]
