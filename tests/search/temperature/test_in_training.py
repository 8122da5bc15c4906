"""Temperature rules in training: used, reported, recorded, continued; a search with each on digits."""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import Any

import pytest
import torch

from search.data import Dataset, open_dataset
from search.distill import Distillation, Material
from search.hypergradient import HyperGradient
from search.models import build_model
from search.process import LearnedProcess, ReplayedProcess
from search.recipe import LogitLoss, Process, TemperatureRule
from search.records import Learning, RunParameters
from search.spec import Splits, Training
from search.temperature import build_temperature_rule
from tests.search.hypergradient.runs import PARTS, caught_after, relative_error
from tests.search.hypergradient.unrolled import unrolled
from tests.search.temperature.batches import NAMES, process
from tests.search.training.runs import assert_resumes_bitwise, finished, make_run

SMALL: dict[str, Any] = {"batch_size": 8, "report_every_steps": 1, "learning_rate": 0.01}
TRAINING = Training.model_validate(SMALL)
LEARN = Learning(learning_rate=0.1, update_every_steps=2, record_points=5)
FOLLOWING = [name for name in NAMES if build_temperature_rule(name).follows_training]
OWN = ["ctkd", "dts", "ltd"]
SIDES = ("teacher", "student")


@cache
def digits() -> Dataset:
    return open_dataset("digits", Splits())


def search_on_digits(name: str) -> Distillation:
    data = digits()
    student, teacher = (
        build_model(
            model, classes=10, channels=1, input_size=32, seed=seed, data_mean=data.mean, data_std=data.std
        )
        for seed, model in enumerate(("test_vit", "test_resnet"))
    )
    splits = data.splits
    return Distillation(
        Material(student=student, teacher=teacher, train=splits["train"], meta=splits["meta"]),
        RunParameters(process=process(name), epochs=1, learn=Learning(learning_rate=0.1)),
        Training(batch_size=32, report_every_steps=1),
        seed=0,
        max_steps=6,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_search_on_digits_learns_its_weight_and_reports_its_temperatures(name: str) -> None:
    run = search_on_digits(name)
    rows = finished(run)
    assert len({row["weight/kd-0"] for row in rows}) == len(rows)
    is_moving = {side: len({row[f"temperature/{side}-0"] for row in rows}) > 1 for side in SIDES}
    assert set(is_moving.values()) == {name in ("learned", *FOLLOWING)}
    if name == "fixed":
        assert rows[0]["temperature/teacher-0"] == pytest.approx(2.0)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_search_has_recorded_is_what_held(name: str) -> None:
    learn = LEARN.model_copy(update={"record_points": 7})
    run = make_run(TRAINING, process=process(name), learn=learn, images=24, epochs=2)
    rows = finished(run)
    recorded = run.recorded()
    assert Process.model_validate_json(recorded.model_dump_json()) == recorded
    for row, point in zip(rows, recorded.points, strict=False):
        assert point.teacher_temperatures == [row["temperature/teacher-0"]]
        assert point.student_temperatures == [row["temperature/student-0"]]


@pytest.mark.parametrize("name", OWN)
def test_a_replay_makes_them_anew_from_what_it_sees(name: str) -> None:
    recorded = process(name, temperature=3.0)
    run = make_run(TRAINING, process=recorded, images=24)
    rows = finished(run)
    at_first = build_temperature_rule(name)(run_base(3.0), 0.0)
    assert tuple(rows[0][f"temperature/{side}-0"] for side in SIDES) == tuple(map(float, at_first))
    others = finished(make_run(TRAINING, process=recorded, images=24, seed=6))
    one, other = ([row["temperature/teacher-0"] for row in found] for found in (rows, others))
    assert (one == other) == (name not in FOLLOWING)
    assert run.recorded() == recorded


def run_base(temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    value = torch.tensor(temperature, dtype=torch.float64)
    return value, value


@pytest.mark.parametrize("name", ["fixed", "learned"])
def test_a_replay_of_recorded_ones_is_to_the_bit_that_without_a_rule(name: str) -> None:
    one, other = (make_run(TRAINING, process=process(rule), images=24) for rule in (name, None))
    assert finished(one) == finished(other)


@pytest.mark.parametrize(("name", "learns"), [("learned", True), ("fixed", False)])
def test_a_search_without_a_rule_is_the_one_that_its_setting_names(name: str, learns: bool) -> None:
    one = make_run(TRAINING, process=process(name), learn=LEARN, images=24)
    learn = LEARN.model_copy(update={"learn_temperatures": learns})
    other = make_run(TRAINING, process=process(None), learn=learn, images=24)
    assert finished(one) == finished(other)


@pytest.mark.parametrize("learn", [None, LEARN], ids=["replay", "search"])
@pytest.mark.parametrize("at", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_bitwise(name: str, at: int, learn: Learning | None) -> None:
    arguments: dict[str, Any] = {"process": process(name), "learn": learn, "images": 24, "epochs": 2}
    assert_resumes_bitwise(TRAINING, at=at, **arguments)


@pytest.mark.parametrize("name", FOLLOWING)
def test_the_parts_of_a_batch_are_one_batch_to_it(name: str) -> None:
    """A ViT keeps no statistics of its batches, so that parts change nothing else."""
    one, other = (
        finished(make_run(TRAINING.model_copy(update={"accumulate_parts": parts}), process=process(name)))
        for parts in (1, 2)
    )
    for row, same in zip(one, other, strict=True):
        assert row["temperature/teacher-0"] == pytest.approx(same["temperature/teacher-0"], rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_search_moves_the_temperatures_of_learned_rules_alone(name: str) -> None:
    learned = LearnedProcess(process(name, "learned"), Learning(learning_rate=0.1))
    before = learned.at(0.0)
    ones = torch.ones(2, dtype=torch.float64)
    for _ in range(3):
        learned.update(HyperGradient(ones, ones[:0], ones, ones))
    after = learned.at(0.5)
    for side in SIDES:
        old, new = (getattr(effective, f"{side}_temperatures") for effective in (before, after))
        assert new[1] < old[1]
        assert (new[0] < old[0]) == (name == "learned")
        assert (new[0] == old[0]) == (name != "learned")
    assert (after.logit_weights < before.logit_weights).all()


@pytest.mark.parametrize("name", OWN)
def test_hypergradients_are_exact_at_the_temperatures_that_a_rule_makes(name: str) -> None:
    """Against the unrolled steps, in float64: the temperatures of a step are numbers to it."""

    def searching() -> Distillation:
        plain = make_run(TRAINING, student="test_resnet", learn=LEARN)
        ruled = plain.parameters.process.model_copy(
            update={"logit_losses": [LogitLoss(temperature_rule=TemperatureRule(name=name))]}
        )
        plain.student.double()
        assert plain.teacher is not None
        plain.teacher.double()
        run = Distillation(
            plain.material,
            plain.parameters.model_copy(update={"process": ruled}),
            Training(optimizer="sgd", learning_rate=0.05, batch_size=16, report_every_steps=1),
            seed=5,
        )
        run.losses.double()
        return run

    found, before, rates = caught_after(searching(), 5)
    twin = searching()
    twin.load(before)
    expected, _ = unrolled(twin, rates)
    for part in PARTS:
        assert relative_error(getattr(found, part), getattr(expected, part)) < 1e-9, part


def test_a_state_from_before_there_were_rules_is_read() -> None:
    replayed = ReplayedProcess(process(None))
    replayed.load({})
    run = make_run(TRAINING, process=process(None), learn=LEARN, images=24)
    list(islice(run.steps(), 2))
    state = run.state()["process"]
    del state["rules"], state["progress"]
    again = LearnedProcess(process(None), LEARN)
    again.load(state)
    assert torch.equal(again.at(0.5).teacher_temperatures, run.process.at(0.5).teacher_temperatures)
