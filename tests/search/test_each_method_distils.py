"""Every method that a process can name trains a student at least about as well as labels alone (slow).

One short distillation each, on the handwritten digits: a `resnet8_w32` teaches a `resnet8_w8`. Beside
cross-entropy of weight 1 a logit loss weighs 1, a feature loss 1 on its unit scale, and so do all pathways
of a transform or of a distance together. With `--capture=no` a table is printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from statistics import fmean

import pytest
import torch
from torch import Tensor

from search.data import Dataset, open_dataset
from search.distill import Distillation, Material
from search.evaluate import evaluate
from search.method_card import Owned
from search.models import TappedModel, build_model
from search.pathway_rules import MapFacts, enumerate_pathways
from search.recipe import AnyPathway, FeatureLoss, LogitLoss, Point, Process, TemperatureRule, constant
from search.records import RunParameters
from search.registry import Kind, Method, get, load_everything, methods
from search.spec import Splits, Training

load_everything()

TEACHER, STUDENT = "resnet8_w32", "resnet8_w8"
TRAINING = Training(batch_size=32, learning_rate=5e-3, augmentation="none")
SIZE = 16
"""Of the images, in pixels: a quarter of the work of the usual 32."""
EPOCHS, TEACHER_EPOCHS = 16, 16
TEMPERATURE = 4.0
SEEDS = (0, 1)
MARGIN_POINTS = 3.0
KNOWN_WORSE_POINTS: dict[str, float] = {}
"""Methods that cost the student more than the margin in so short a training, and the most that they may cost:
docs/log.md says why."""


def of_logits(method: Method) -> Process:
    return process(losses=[LogitLoss(name=method.name)])


def of_features(method: Method) -> Process:
    """Without cross-entropy where the loss gives the student another head."""
    found = process([FeatureLoss(loss=method.name)])
    owns_logits = Owned.STUDENT_LOGITS in method.card.owns
    return found.model_copy(update={"cross_entropy_weight": 0.0}) if owns_logits else found


def of_rule(method: Method) -> Process:
    return process(losses=[LogitLoss(temperature_rule=TemperatureRule(name=method.name))])


def of_operator(method: Method) -> Process:
    return process(joined(f"projection+{method.name}", "mse"))


def of_transform(method: Method) -> Process:
    """With a distance for which its channels do."""
    return process(joined(method.name, "attention" if method.card.keeps_channels else "mse"))


def of_distance(method: Method) -> Process:
    return process(joined("projection", method.name))


PROCESSES: dict[Kind, Callable[[Method], Process]] = {
    Kind.LOGIT_LOSS: of_logits,
    Kind.FEATURE_LOSS: of_features,
    Kind.TRANSFORM: of_transform,
    Kind.DISTANCE: of_distance,
    Kind.OPERATOR: of_operator,
    Kind.TEMPERATURE_RULE: of_rule,
}
OTHER_KINDS = {Kind.NORMALISATION, Kind.STRATEGY, Kind.HYPERGRADIENT, Kind.AUGMENTATION}
"""Of searches and of data: no part of a process."""
METHODS = [method for method in methods() if method.kind in PROCESSES]


def process(pathways: list[AnyPathway] | None = None, *, losses: list[LogitLoss] | None = None) -> Process:
    """Cross-entropy beside these."""
    pathways, losses = pathways or [], losses or []
    share = 1.0 / max(1, len(pathways))
    point = Point(
        progress=0.0,
        logit_weights=[1.0] * len(losses),
        pathway_weights=[share] * len(pathways),
        teacher_temperatures=[TEMPERATURE] * len(losses),
        student_temperatures=[TEMPERATURE] * len(losses),
    )
    return Process(logit_losses=losses, pathways=pathways, points=[point])


def joined(transform: str, distance: str) -> list[AnyPathway]:
    """Of every stage."""
    facts = MapFacts.of({card["id"]: card for card in (method.described() for method in methods())})
    stages = model(TEACHER, seed=0).stages, model(STUDENT, seed=0).stages
    size = digits().size
    return [*enumerate_pathways("same_depth", [transform], [distance], *stages, facts, input_size=size)]


@lru_cache
def digits() -> Dataset:
    return open_dataset("digits", Splits(), input_size=SIZE)


def model(name: str, *, seed: int) -> TappedModel:
    data = digits()
    return build_model(
        name,
        classes=data.classes,
        channels=data.channels,
        input_size=data.size,
        seed=seed,
        data_mean=data.mean,
        data_std=data.std,
    )


def trained(name: str, of: Process, *, teacher: TappedModel | None, epochs: int, seed: int) -> TappedModel:
    """On the training images."""
    splits = digits().splits
    material = Material(
        student=model(name, seed=seed), teacher=teacher, train=splits["train"], meta=splits["meta"]
    )
    run = Distillation(material, RunParameters(process=of, epochs=epochs), TRAINING, seed=seed)
    for _ in run.steps():
        pass
    return run.trained


def accuracy(student: TappedModel) -> float:
    """In per cent, of the test images."""
    return 100 * evaluate(student, digits().splits["test"]).accuracy


@lru_cache
def taught_teacher() -> TappedModel:
    return trained(TEACHER, constant(), teacher=None, epochs=TEACHER_EPOCHS, seed=100).eval()


@lru_cache
def alone(seed: int) -> float:
    return accuracy(trained(STUDENT, constant(), teacher=None, epochs=EPOCHS, seed=seed))


def distilled(method: Method, seed: int) -> float:
    of = PROCESSES[method.kind](method)
    return accuracy(trained(STUDENT, of, teacher=taught_teacher(), epochs=EPOCHS, seed=seed))


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Lines that are printed at the end."""
    torch.set_num_threads(1)
    rows: list[str] = []
    yield rows
    head = f"teacher {accuracy(taught_teacher()):.1f}, student alone {fmean(map(alone, SEEDS)):.1f}"
    sys.stdout.write("\n".join(["", head, *rows, ""]))


def test_every_kind_is_tried_or_known_to_be_no_part_of_a_process() -> None:
    assert {*PROCESSES} | OTHER_KINDS == {*Kind}
    assert not {*PROCESSES} & OTHER_KINDS


def test_what_is_known_to_be_worse_is_there() -> None:
    assert {*KNOWN_WORSE_POINTS} <= {f"{method.kind}/{method.name}" for method in METHODS}


@pytest.mark.slow
def test_the_comparison_means_something(table: list[str]) -> None:
    """The student alone is far above chance, and has something to learn from a better teacher."""
    assert 60 < fmean(map(alone, SEEDS)) < accuracy(taught_teacher()) - 1


@pytest.mark.slow
def test_a_loss_that_teaches_the_wrong_thing_is_found(
    monkeypatch: pytest.MonkeyPatch, table: list[str]
) -> None:
    """KD towards a teacher whose classes are mixed up by one."""
    kd = get(Kind.LOGIT_LOSS, "kd")
    forward = kd.factory.forward

    def mixed_up(self: object, student: Tensor, teacher: Tensor, **beside: Tensor) -> Tensor:
        loss: Tensor = forward(self, student, teacher.roll(1, dims=1), **beside)
        return loss

    monkeypatch.setattr(kd.factory, "forward", mixed_up)
    gain = distilled(kd, SEEDS[0]) - alone(SEEDS[0])
    table.append(f"{'KD with classes mixed up':36} {gain:+.1f}")
    assert gain < -MARGIN_POINTS


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.kind}/{method.name}")
def test_it_trains_a_student_about_as_well_as_labels_alone(method: Method, table: list[str]) -> None:
    """A second seed decides where the first is below."""
    gains = [distilled(method, SEEDS[0]) - alone(SEEDS[0])]
    if gains[0] < -MARGIN_POINTS:
        gains += [distilled(method, seed) - alone(seed) for seed in SEEDS[1:]]
    name = f"{method.kind}/{method.name}"
    table.append(f"{name:36} {fmean(gains):+.1f} {[round(gain, 1) for gain in gains]}")
    assert fmean(gains) >= -KNOWN_WORSE_POINTS.get(name, MARGIN_POINTS)
