"""The figures of docs/search.md, from real runs on the handwritten digits: `python -m tools.figures`.

About two minutes on one core. The runs are seeded, so that the same versions draw the same figures.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy

from search.data import Dataset, open_dataset
from search.distill import Distillation, Material
from search.hypergradient import HyperGradient, Parameters, Step
from search.hypergradient.exact import Exact
from search.models import TappedModel, build_model
from search.process import Effective
from search.recipe import AnyPathway, LogitLoss, Pathway, Point, Process, constant
from search.records import Learning, RunParameters
from search.registry import load_everything
from search.spec import Splits, Training
from search.training.precision import forward_taps

FOLDER = Path(__file__).parent.parent / "docs" / "figures"
TEACHER, STUDENT = "resnet8_w32", "resnet8_w8"
TRAINING = Training(learning_rate=3e-3)
TANGENT_STEP = 60
LOOKAHEADS = (1, 4, 16)
DISTANCES = (("projection", "mse"), ("identity", "attention"))
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


class Watched(Exact):
    """The exact hypergradient; remembers the last one."""

    last: HyperGradient

    def slope(self, step: Step, direction: Parameters) -> HyperGradient:
        self.last = super().slope(step, direction)
        return self.last


@dataclass(frozen=True)
class Bench:
    """The digits, and a teacher trained on them."""

    data: Dataset
    teacher: TappedModel

    @classmethod
    def build(cls, *, epochs: int = 15) -> Bench:
        """Train the teacher on the train split."""
        load_everything()
        data = open_dataset("digits", Splits())
        material = Material(student=model(data, TEACHER, seed=0), teacher=None, train=data.splits["train"])
        run = Distillation(material, RunParameters(process=constant(), epochs=epochs), TRAINING, seed=0)
        for _ in run.steps():
            pass
        return cls(data, run.student)

    def search(
        self, process: Process, *, epochs: int, learn: Learning, hypergradient: Exact | None = None
    ) -> Distillation:
        """A search trial that has not begun."""
        splits = self.data.splits
        material = Material(
            student=model(self.data, STUDENT, seed=1),
            teacher=self.teacher,
            train=splits["train"],
            meta=splits["meta"],
        )
        parameters = RunParameters(process=process, epochs=epochs, learn=learn)
        return Distillation(material, parameters, TRAINING, seed=0, hypergradient=hypergradient)


def model(data: Dataset, name: str, *, seed: int) -> TappedModel:
    """With random weights."""
    return build_model(
        name,
        classes=data.classes,
        channels=data.channels,
        input_size=data.size,
        seed=seed,
        data_mean=data.mean,
        data_std=data.std,
    )


def start(bench: Bench, *, temperature: float = 2.0) -> Process:
    """KD, and two pathways between stages of the same depth: where a search begins."""
    pathways: list[AnyPathway] = [
        Pathway(teacher_stage=stage, student_stage=stage, transform=transform, distance=distance)
        for stage in range(len(bench.teacher.stages))
        for transform, distance in DISTANCES
    ]
    point = Point(
        progress=0.0,
        logit_weights=[1.0],
        pathway_weights=[0.05] * len(pathways),
        teacher_temperatures=[temperature],
        student_temperatures=[temperature],
    )
    return Process(logit_losses=[LogitLoss()], pathways=pathways, points=[point])


def draw_process(bench: Bench) -> Figure:
    """What a search learned: the weights and the temperatures over training."""
    run = bench.search(start(bench), epochs=40, learn=Learning(learning_rate=0.1))
    for _ in run.steps():
        pass
    learned = run.recorded()
    progress = [point.progress for point in learned.points]
    figure, (weights, temperatures) = axes(2, legend=1.4)
    for index, pathway in enumerate(learned.pathways):
        weights.plot(progress, [point.pathway_weights[index] for point in learned.points], label=pathway.name)
    weights.plot(progress, [point.logit_weights[0] for point in learned.points], "k--", label="KD")
    weights.set(xlabel="progress of training", ylabel="weight", yscale="log", title="weights")
    for name, style in (("teacher", "-"), ("student", "--")):
        values = [getattr(point, f"{name}_temperatures")[0] for point in learned.points]
        temperatures.plot(progress, values, style, label=name)
    temperatures.set(xlabel="progress of training", ylabel="temperature", title="temperatures")
    temperatures.legend()
    figure.legend(*weights.get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure


def draw_tangent(bench: Bench) -> Figure:
    """The meta loss after one step, against what one loss weighed in it; the slope is the hypergradient."""
    watched = Watched()
    run = bench.search(start(bench), epochs=40, learn=Learning(learning_rate=1e-6), hypergradient=watched)
    steps = run.steps()
    for _ in range(TANGENT_STEP):
        next(steps)
    state, effective = copy.deepcopy(run.state()), run.process.at(TANGENT_STEP / run.total_steps)
    next(steps)
    slopes = watched.last
    last = len(effective.pathway_weights) - len(DISTANCES)
    moved = [
        ("KD", "logit_weights", 0, float(slopes.logit_weights[0])),
        ("last stage, projection, MSE", "pathway_weights", last, float(slopes.pathway_weights[last])),
    ]
    figure, places = axes(2)
    for place, (title, part, index, slope) in zip(places, moved, strict=True):
        at = float(getattr(effective, part)[index])
        values = torch.linspace(0.0, 2.0 * max(at, 1.0), 9).tolist()
        losses = [_meta_loss(run, state, _with(effective, part, index, value)) for value in values]
        base = _meta_loss(run, state, effective)
        place.plot(values, losses, "o", label="step taken with this weight")
        place.plot(values, [base + slope * (value - at) for value in values], label="hypergradient's slope")
        place.axvline(at, color="grey", linewidth=0.8)
        place.set(xlabel="weight in this step", ylabel="meta loss after the step", title=title)
        place.legend()
    return figure


def draw_horizon(bench: Bench) -> Figure:
    """What is learned when the meta loss judges after one step, and after several."""
    figure, (temperatures, weights) = axes(2)
    for steps in LOOKAHEADS:
        learn = Learning(
            learning_rate=0.2,
            update_every_steps=max(LOOKAHEADS),
            lookahead_steps=steps,
            tie_temperatures=True,
        )
        run = bench.search(start(bench, temperature=4.0), epochs=40, learn=learn)
        for _ in run.steps():
            pass
        points = run.recorded().points
        progress = [point.progress for point in points]
        label = f"{steps} step{'s' if steps > 1 else ''} ahead"
        temperatures.plot(progress, [point.teacher_temperatures[0] for point in points], label=label)
        weights.plot(progress, [sum(point.pathway_weights) for point in points], label=label)
    temperatures.set(xlabel="progress of training", ylabel="temperature", title="temperature (tied)")
    weights.set(xlabel="progress of training", ylabel="weight", title="all pathways together")
    temperatures.legend()
    return figure


def axes(count: int, *, legend: float = 0.0) -> tuple[Figure, Sequence[Axes]]:
    """Plots side by side, and inches for a legend beside them."""
    figure = Figure(figsize=(3.3 * count + legend, 2.4), layout="constrained")
    return figure, list(figure.subplots(1, count))


def _with(effective: Effective, part: str, index: int, value: float) -> Effective:
    changed = getattr(effective, part).clone()
    changed[index] = value
    return replace(effective, **{part: changed})


def _meta_loss(run: Distillation, state: dict[str, Any], effective: Effective) -> float:
    """The meta loss after the step that is taken from this state with these weights."""
    run.load(copy.deepcopy(state))
    with mock.patch.object(run.process, "at", return_value=effective):
        next(run.steps())
    images, targets = run.batches.meta_at(TANGENT_STEP, None)
    with torch.no_grad():
        logits, _ = forward_taps(run.student, images, [], keep_buffers=True)
    return float(cross_entropy(logits, targets))


FIGURES: dict[str, Callable[[Bench], Figure]] = {
    "process": draw_process,
    "tangent": draw_tangent,
    "horizon": draw_horizon,
}


def main() -> None:
    """Draw all figures, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tools.figures", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *FIGURES], help=", ".join(FIGURES))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench.build()
    with mpl.rc_context(STYLE):
        for name in options.names or FIGURES:
            FIGURES[name](bench).savefig(options.folder / f"{name}.png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
