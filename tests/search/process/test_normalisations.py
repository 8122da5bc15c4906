"""Normalisations: the contract over the registry, and DistPro's formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from search.problems import SearchProblem
from search.process import LearnedProcess
from search.records import Learning
from search.registry import Kind, get, methods
from tests.search.process.processes import START, gradient, point, process

NAMES = [method.name for method in methods(Kind.NORMALISATION)]
LEARNED = [name for name in NAMES if name != "constant"]
TOTALS = {"softmax": 1.0, "absolute_share": 3.0}
"""Normalisations whose total is fixed: of starting weights the proportions are kept."""
INDEPENDENT = ["softplus", "sigmoid", "absolute"]
vectors = st.lists(st.floats(-6, 6), min_size=1, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)
small = st.lists(st.floats(1e-5, 0.15), min_size=1, max_size=6).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


def weights_of(name: str, raw: Tensor) -> Tensor:
    weights: Tensor = get(Kind.NORMALISATION, name).factory().weights(raw)
    return weights


def raw_of(name: str, weights: Tensor) -> Tensor:
    raw: Tensor = get(Kind.NORMALISATION, name).factory().raw(weights)
    return raw


@pytest.mark.parametrize("name", NAMES)
class TestEveryNormalisation:
    @given(weights=small)
    @settings(max_examples=30, deadline=None)
    def test_the_inverse_gives_the_weights_or_where_the_total_is_fixed_their_proportions(
        self, name: str, weights: Tensor
    ) -> None:
        expected = weights / weights.sum() * TOTALS[name] if name in TOTALS else weights
        torch.testing.assert_close(weights_of(name, raw_of(name, weights)), expected, rtol=1e-9, atol=1e-15)

    @given(raw=vectors)
    @settings(max_examples=30, deadline=None)
    def test_weights_of_parameters_can_be_had_again_from_parameters(self, name: str, raw: Tensor) -> None:
        if name in ("absolute", "absolute_share", "absolute_bounded", "constant"):
            raw = raw.abs() + 1e-3
        weights = weights_of(name, raw)
        torch.testing.assert_close(weights_of(name, raw_of(name, weights)), weights, rtol=1e-7, atol=1e-12)

    @given(raw=vectors)
    @settings(max_examples=30, deadline=None)
    def test_weights_are_finite_and_not_negative(self, name: str, raw: Tensor) -> None:
        weights = weights_of(name, raw.abs() if name == "constant" else raw)
        assert torch.isfinite(weights).all()
        assert (weights >= 0).all()
        if name in ("softplus", "softmax", "sigmoid", "biased_softmax", "biased_softmax_share"):
            assert (weights > 0).all()

    def test_its_gradient_is_that_of_finite_differences(self, name: str) -> None:
        raw = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.float64, requires_grad=True)
        if name == "constant":
            assert not weights_of(name, raw).requires_grad
            return
        torch.autograd.gradcheck(lambda value: weights_of(name, value), raw)

    def test_a_learned_process_starts_where_it_was_told(self, name: str) -> None:
        learned = LearnedProcess(process(START), Learning(learning_rate=0.1, normalisation=name))
        found = learned.at(0.0)
        total = TOTALS.get(name, 0.65)
        expected = [weight / 0.65 * total for weight in (0.05, 0.2, 0.4)]
        assert found.pathway_weights.tolist() == pytest.approx(expected)
        assert found.logit_weights.tolist() == pytest.approx([1.0])
        assert found.teacher_temperatures.tolist() == pytest.approx([3.0])
        assert found.student_temperatures.tolist() == pytest.approx([4.0])

    def test_a_factor_leaves_the_start_and_scales_what_can_be_reached(self, name: str) -> None:
        learning = Learning(learning_rate=0.1, normalisation=name, pathway_weight_factor=4.0)
        found = LearnedProcess(process(START), learning).at(0.0).pathway_weights
        total = 4.0 * TOTALS[name] if name in TOTALS else 0.65
        assert found.tolist() == pytest.approx([weight / 0.65 * total for weight in (0.05, 0.2, 0.4)])

    def test_learning_follows_the_gradient(self, name: str) -> None:
        learned = LearnedProcess(process(START), Learning(learning_rate=1e-3, normalisation=name))
        before = learned.at(0.0).pathway_weights
        learned.update(gradient([1.0, -1.0, 0.0]))
        after = learned.at(0.5).pathway_weights
        if name == "constant":
            assert torch.equal(after, before)
            return
        assert after[0] < before[0]
        assert after[1] > before[1]

    def test_it_may_be_without_pathways(self, name: str) -> None:
        alone = process(START).model_copy(
            update={"pathways": [], "points": [START.model_copy(update={"pathway_weights": []})]}
        )
        learned = LearnedProcess(alone, Learning(learning_rate=0.1, normalisation=name))
        learned.update(gradient([]))
        assert learned.at(0.0).pathway_weights.shape == (0,)


class TestFormulas:
    """DistPro's styles, by numpy."""

    raw = np.array([0.3, -1.2, 2.0])

    @pytest.mark.parametrize(
        ("name", "formula"),
        [
            ("softplus", lambda a: np.log1p(np.exp(a))),
            ("constant", lambda a: a),
            ("softmax", lambda a: np.exp(a) / np.exp(a).sum()),
            ("biased_softmax_share", lambda a: np.exp(a) / (np.exp(a).sum() + np.e)),
            ("biased_softmax", lambda a: 3 * np.exp(a) / (np.exp(a).sum() + np.e)),
            ("sigmoid", lambda a: 1 / (1 + np.exp(-a))),
            ("absolute", abs),
            ("absolute_share", lambda a: 3 * abs(a) / abs(a).sum()),
            ("absolute_bounded", lambda a: 10 * abs(a) / (1 + abs(a).sum())),
        ],
    )
    def test_formula(self, name: str, formula) -> None:
        found = weights_of(name, torch.from_numpy(self.raw))
        assert found.tolist() == pytest.approx(formula(self.raw).tolist(), rel=1e-10)

    def test_every_style_is_tried(self) -> None:
        marks = type(self).test_formula.pytestmark  # type: ignore[attr-defined]
        assert {name for name, _ in marks[0].args[1]} == set(NAMES)

    def test_distpros_start_is_one_share_each_and_one_for_nothing(self) -> None:
        assert weights_of("biased_softmax_share", torch.ones(9).double()).tolist() == pytest.approx([0.1] * 9)


@pytest.mark.parametrize("name", LEARNED)
def test_weights_compete_unless_they_are_independent(name: str) -> None:
    raw = torch.full((3,), 0.5, dtype=torch.float64)
    grown = raw + torch.tensor([2.0, 0.0, 0.0])
    others = weights_of(name, raw)[1], weights_of(name, grown)[1]
    assert (others[0] == others[1]) if name in INDEPENDENT else (others[0] > others[1])


@pytest.mark.parametrize(
    ("name", "weight", "said"),
    [
        ("biased_softmax", 2.0, "below 1 on average"),
        ("biased_softmax_share", 0.5, "below 1 in all"),
        ("absolute_bounded", 4.0, "below 10 in all"),
        ("sigmoid", 1.0, "each below 1"),
    ],
)
def test_a_start_out_of_reach_is_refused_with_the_remedy(name: str, weight: float, said: str) -> None:
    start = process(point(0.0, logit=1.0, pathways=[weight] * 3))
    with pytest.raises(SearchProblem, match=said) as caught:
        LearnedProcess(start, Learning(learning_rate=0.1, normalisation=name))
    assert caught.value.code == "bad_start"
    assert "initial_pathway_weight" in str(caught.value)
    raised = Learning(learning_rate=0.1, normalisation=name, pathway_weight_factor=10.0)
    assert LearnedProcess(start, raised).at(0.0).pathway_weights.tolist() == pytest.approx([weight] * 3)
