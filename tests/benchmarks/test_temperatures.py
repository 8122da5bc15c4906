"""The check of learned temperatures learns temperatures, and nothing else."""

from __future__ import annotations

import importlib
import math
import sys

import pytest

from benchmarks.temperatures_task import MODES, QUICK, USUAL, WEIGHT, Outcome, learning_run, results
from search import registry
from search.data import Dataset, open_dataset
from search.distill import Distillation, Material
from search.models import TappedModel, build_model
from search.planning.arms import kd
from search.spec import Splits, Training


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's own hypergradient, for one test only: other tests go over all that are registered."""
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))
    sys.modules.pop("benchmarks.temperatures_only", None)
    importlib.import_module("benchmarks.temperatures_only")


def model(data: Dataset, seed: int) -> TappedModel:
    return build_model(
        "test_resnet",
        classes=10,
        channels=1,
        input_size=32,
        seed=seed,
        data_mean=data.mean,
        data_std=data.std,
    )


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("mode", MODES)
def test_weights_stay_and_temperatures_move(mode: str) -> None:
    data = open_dataset("digits", Splits())
    splits = data.splits
    run = Distillation(
        Material(student=model(data, 1), teacher=model(data, 0), train=splits["train"], meta=splits["meta"]),
        learning_run(mode, epochs=1),
        Training(),
        seed=0,
    )
    for _ in run.steps():
        pass
    points = run.recorded().points
    assert [point.logit_weights[0] for point in points] == pytest.approx([WEIGHT] * len(points))
    end = points[-1]
    assert end.teacher_temperatures[0] != pytest.approx(USUAL, abs=0.05)
    assert (end.teacher_temperatures == end.student_temperatures) == (mode == "tied")


def test_figures_are_paired_with_t4_and_with_the_best_of_the_grid() -> None:
    learned = [kd(temperature=2.0, weight=1.0), kd(temperature=3.0, weight=1.0)]
    outcome = Outcome(
        arms={
            "t4": {0: 0.50, 1: 0.52},
            "best_fixed": {0: 0.51, 1: 0.53},
            "separate": {0: 0.52, 1: 0.54},
            "tied": {0: 0.50, 1: 0.50},
        },
        validation=dict.fromkeys(QUICK.grid, 0.5),
        best=2.0,
        learned=dict.fromkeys(MODES, learned),
    )
    figures = {result.name: result.value for result in results(outcome)}
    assert figures["temperatures_separate_vs_t4_points"] == pytest.approx(2.0)
    assert figures["temperatures_separate_vs_best_fixed_points"] == pytest.approx(1.0)
    assert figures["temperatures_tied_vs_t4_points"] == pytest.approx(-1.0)
    assert figures["temperatures_tied_vs_t4_lower"] < -1.0
    assert figures["temperatures_separate_teacher_end"] == pytest.approx(2.5)
    assert not any(math.isnan(value) for value in figures.values())
