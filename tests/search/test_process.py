"""The process: normalisations and their inverses, interpolation, recording, JSON."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from search.hypergradient import HyperGradient
from search.problems import NonFiniteFigure, SearchProblem
from search.process import MIN_TEMPERATURE, LearnedProcess, ReplayedProcess
from search.recipe import LogitLoss, Pathway, Point, Process
from search.records import Learning
from search.registry import Kind, methods

PATHWAYS = [
    Pathway(teacher_stage=stage, student_stage=stage, transform="projection", distance="mse")
    for stage in range(3)
]


def point(progress: float, *, logit: float, pathways: list[float], temperature: float = 3.0) -> Point:
    return Point(
        progress=progress,
        logit_weights=[logit],
        pathway_weights=pathways,
        teacher_temperatures=[temperature],
        student_temperatures=[temperature + 1],
    )


def process(*points: Point) -> Process:
    return Process(logit_losses=[LogitLoss()], pathways=PATHWAYS, points=list(points))


START = point(0.0, logit=1.0, pathways=[0.05, 0.2, 0.4])


@pytest.mark.parametrize("method", methods(Kind.NORMALISATION), ids=lambda method: method.name)
class TestNormalisations:
    def test_the_inverse_gives_the_weights_again(self, method) -> None:
        weights = torch.tensor([1e-4, 0.05, 0.3, 0.9], dtype=torch.float64)
        normalisation = method.factory()
        torch.testing.assert_close(normalisation.weights(normalisation.raw(weights)), weights)

    def test_weights_are_positive(self, method) -> None:
        raw = torch.tensor([-30.0, 0.0, 30.0], dtype=torch.float64)
        assert (method.factory().weights(raw) > 0).all()

    def test_a_learned_process_starts_where_it_was_told(self, method) -> None:
        learned = LearnedProcess(process(START), Learning(learning_rate=0.1, normalisation=method.name))
        found = learned.at(0.0)
        assert found.pathway_weights.tolist() == pytest.approx([0.05, 0.2, 0.4])
        assert found.logit_weights.tolist() == pytest.approx([1.0])
        assert found.teacher_temperatures.tolist() == pytest.approx([3.0])
        assert found.student_temperatures.tolist() == pytest.approx([4.0])


def test_softmax_weights_compete_and_softplus_weights_do_not() -> None:
    raw = torch.zeros(3, dtype=torch.float64)
    grown = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
    by_name = {method.name: method.factory() for method in methods(Kind.NORMALISATION)}
    assert by_name["softplus"].weights(grown)[1] == by_name["softplus"].weights(raw)[1]
    assert by_name["biased_softmax"].weights(grown)[1] < by_name["biased_softmax"].weights(raw)[1]
    assert by_name["biased_softmax"].weights(raw * 0 + 50).sum() <= 3


def test_biased_softmax_refuses_a_start_that_it_cannot_hold() -> None:
    with pytest.raises(SearchProblem, match="below 1 on average"):
        LearnedProcess(
            process(point(0.0, logit=1.0, pathways=[2.0, 2.0, 2.0])),
            Learning(learning_rate=0.1, normalisation="biased_softmax"),
        )


def gradient(pathways: list[float], *, logit: float = 0.0, temperature: float = 0.0) -> HyperGradient:
    vector = [torch.tensor([value], dtype=torch.float64) for value in (logit, temperature, temperature)]
    return HyperGradient(vector[0], torch.tensor(pathways, dtype=torch.float64), vector[1], vector[2])


def test_an_update_follows_the_negative_gradient() -> None:
    learned = LearnedProcess(process(START), Learning(learning_rate=0.1))
    learned.update(gradient([1.0, -1.0, 0.0], logit=-1.0, temperature=1.0))
    found = learned.at(0.5)
    assert found.pathway_weights[0] < 0.05
    assert found.pathway_weights[1] > 0.2
    assert float(found.pathway_weights[2]) == pytest.approx(0.4)
    assert found.logit_weights[0] > 1.0
    assert found.teacher_temperatures[0] < 3.0


def test_a_gradient_that_is_not_finite_is_named() -> None:
    learned = LearnedProcess(process(START), Learning(learning_rate=0.1))
    with pytest.raises(NonFiniteFigure, match="pathway weights"):
        learned.update(gradient([float("nan"), 0.0, 0.0]))


def test_temperatures_stay_above_their_minimum_and_may_be_held() -> None:
    falling = LearnedProcess(process(START), Learning(learning_rate=0.5))
    held = LearnedProcess(process(START), Learning(learning_rate=0.5, learn_temperatures=False))
    for _ in range(200):
        falling.update(gradient([0.0] * 3, temperature=1.0))
        held.update(gradient([0.0] * 3, temperature=1.0))
    assert MIN_TEMPERATURE <= falling.at(1.0).teacher_temperatures[0] < 1.01
    assert held.at(1.0).teacher_temperatures.tolist() == pytest.approx([3.0])


def test_a_replay_interpolates_linearly() -> None:
    recorded = process(
        START,
        point(0.5, logit=2.0, pathways=[0.1, 0.1, 0.1]),
        point(1.0, logit=0.0, pathways=[0.0, 0.5, 1.0]),
    )
    replayed = ReplayedProcess(recorded)
    for progress in np.linspace(0, 1, 11):
        expected = np.interp(progress, [0, 0.5, 1], [1.0, 2.0, 0.0])
        assert float(replayed.at(progress).logit_weights[0]) == pytest.approx(expected)
    assert replayed.at(0.75).pathway_weights.tolist() == pytest.approx([0.05, 0.3, 0.55])
    assert replayed.at(0.5).student_temperatures.tolist() == [4.0]


def test_one_point_is_constant() -> None:
    replayed = ReplayedProcess(process(START))
    assert replayed.process.is_constant
    assert replayed.at(0.9).pathway_weights.tolist() == [0.05, 0.2, 0.4]


def test_the_record_has_the_asked_resolution_and_ends_at_one() -> None:
    learned = LearnedProcess(process(START), Learning(learning_rate=0.1, record_points=5))
    for step in range(100):
        learned.at(step / 100)
        learned.update(gradient([-1.0, 0.0, 0.0]))
    recorded = learned.recorded([1.0, 2.0, 3.0])
    assert [p.progress for p in recorded.points] == [0.0, 0.25, 0.5, 0.75, 1.0]
    grown = [p.pathway_weights[0] for p in recorded.points]
    assert grown == sorted(grown)
    assert [pathway.scale for pathway in recorded.pathways] == [1.0, 2.0, 3.0]


def test_json_gives_the_same_process() -> None:
    recorded = process(START, point(1.0, logit=1 / 3, pathways=[1e-7, 0.1, 123.456]))
    assert Process.model_validate_json(recorded.model_dump_json()) == recorded


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"points": []}, "at least 1 item"),
        ({"points": [START, START]}, "increasing order"),
        ({"pathways": PATHWAYS[:2]}, "expected"),
        ({"points": [START.model_copy(update={"logit_weights": [float("nan")]})]}, "finite"),
        ({"points": [START.model_copy(update={"logit_weights": [-1.0]})]}, "greater than or equal to 0"),
    ],
)
def test_a_process_that_makes_no_sense_is_refused(change: dict, reason: str) -> None:
    document = process(START).model_dump()
    for name, value in change.items():
        document[name] = [item.model_dump() for item in value]
    with pytest.raises(ValidationError, match=reason):
        Process.model_validate(document)
