"""How wrong each hypergradient is: `python -m benchmarks.hypergradient_errors [--json FILE]`.

Along searches of small networks on scikit-learn's digits, at every update, each approximation is given the
same step and the same direction u, and is held against the exact derivative of that step: float64 for
networks in float32; for those in bfloat16 their own values with float32 tangents, which the tests hold to the
unrolled network. A smaller meta batch is held against the whole one.

Prints a table of median relative errors of the whole hypergradient.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.results import Goal, Result, argument_parser, report
from benchmarks.search_step_runs import BATCH, SIZE, random_model, ten_pathways
from search.data import ImageSet
from search.distill import Distillation, Material
from search.hypergradient import HyperGradient, Parameters, Step
from search.hypergradient.exact import Exact
from search.hypergradient.finite_difference import FiniteDifference
from search.records import Learning, RunParameters
from search.spec import Training

PAIRS = {"resnet": ("test_resnet", "test_resnet"), "vit": ("test_vit3", "test_vit")}
OPTIMIZERS = {
    "sgd": Training(optimizer="sgd", learning_rate=0.01),
    "adamw": Training(optimizer="adamw", learning_rate=1e-3),
}
UPDATES, SHARES = 4, (2, 4)
GOALS = {"float32": Goal("<", 1e-4), "bfloat16": Goal("<", 5e-3)}
DIFFERENCES = {
    "differences, radius 0.1": FiniteDifference(radius=1e-1),
    "differences, radius 0.01": FiniteDifference(radius=1e-2),
    "differences, radius 0.001": FiniteDifference(radius=1e-3),
}
IN_LOW = {"differences in bfloat16, radius 0.01": FiniteDifference(precision="bfloat16")}


class Watched(Exact):
    """Compares at every step, and goes on with the exact one."""

    def __init__(self) -> None:
        self.errors: dict[str, list[float]] = {}
        self.found: list[HyperGradient] = []

    def slope(self, step: Step, direction: Parameters) -> HyperGradient:
        """The exact one; the errors of all others are kept."""
        exact = super().slope(step, direction)
        self.found.append(exact)
        if step.precision == "float32":
            truth = super().slope(*_in_float64(step, direction))
            self._keep("exact", exact, truth)
            others: dict[str, FiniteDifference] = DIFFERENCES
        else:
            truth = exact
            reverse, _ = super().pull_back(step, direction)
            self._keep("reverse over reverse in bfloat16", reverse, truth)
            others = DIFFERENCES | IN_LOW
        for name, other in others.items():
            self._keep(name, other.slope(step, direction), truth)
        return exact

    def _keep(self, name: str, found: HyperGradient, truth: HyperGradient) -> None:
        self.errors.setdefault(name, []).append(relative_error(found, truth))


def relative_error(found: HyperGradient, truth: HyperGradient) -> float:
    """|found - truth| / |truth| over all weights and temperatures."""
    one, other = (torch.cat([*vars(value).values()]) for value in (found, truth))
    return float((one - other).norm() / other.norm())


def _in_float64(step: Step, direction: Parameters) -> tuple[Step, dict[str, Tensor]]:
    parts = [
        replace(
            part,
            images=part.images.double(),
            teacher_logits=None if part.teacher_logits is None else part.teacher_logits.double(),
            teacher_maps={stage: value.double() for stage, value in part.teacher_maps.items()},
        )
        for part in step.parts
    ]
    before = {name: value.double() for name, value in step.before.items()}
    wide = replace(
        step,
        student=copy.deepcopy(step.student).double(),
        losses=copy.deepcopy(step.losses).double(),
        before=before,
        parts=parts,
    )
    return wide, {name: value.double() for name, value in direction.items()}


def search(pair: str, optimizer: str, precision: str, *, meta_batch_size: int | None = None) -> Watched:
    """A few steps of a search, watched."""
    teacher, student = (random_model(name, seed) for seed, name in enumerate(PAIRS[pair]))
    process = ten_pathways(len(teacher.stages), len(student.stages))
    settings: dict[str, Any] = {
        "batch_size": BATCH,
        "schedule": "constant",
        "augmentation": "none",
        "precision": precision,
    }
    watched = Watched()
    run = Distillation(
        Material(
            student=student,
            teacher=teacher,
            train=digits(0, 4 * BATCH),
            meta=digits(4 * BATCH, 2 * BATCH),
        ),
        RunParameters(
            process=process,
            epochs=100,
            learn=Learning(learning_rate=0.05, meta_batch_size=meta_batch_size),
        ),
        OPTIMIZERS[optimizer].model_copy(update=settings),
        seed=0,
        hypergradient=watched,
    )
    for _, _ in zip(range(UPDATES), run.steps(), strict=False):
        pass
    return watched


def digits(start: int, count: int) -> ImageSet:
    """So many of scikit-learn's digits, enlarged."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rows = slice(start, start + count)
    images = torch.from_numpy(data.images[rows]).mul(255 / 16).to(torch.uint8)
    large = images[:, None].expand(-1, 3, -1, -1)
    for axis in (2, 3):
        large = large.repeat_interleave(SIZE // images.shape[-1], dim=axis)
    return ImageSet(images=large, labels=torch.from_numpy(data.target[rows]).long())


def meta_batch_errors(pair: str, optimizer: str) -> dict[str, list[float]]:
    """Of the first update, which all start from: what fewer meta images do to the hypergradient."""
    whole = search(pair, optimizer, "float32").found[0]
    return {
        f"meta batch of 1/{share}": [
            relative_error(search(pair, optimizer, "float32", meta_batch_size=BATCH // share).found[0], whole)
        ]
        for share in SHARES
    }


def table(columns: Sequence[str], rows: dict[str, list[float | None]]) -> str:
    """In Markdown."""
    lines = ["| approximation | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join("" if value is None else f"{value:.1e}" for value in values) + " |"
        for name, values in rows.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure all pairs, optimisers and precisions."""
    options = argument_parser("hypergradient_errors", __doc__).parse_args()
    torch.set_num_threads(1)
    kinds = [(p, o, precision) for precision in GOALS for p in PAIRS for o in OPTIMIZERS]
    found: list[dict[str, float]] = []
    for pair, optimizer, precision in kinds:
        errors = search(pair, optimizer, precision).errors
        if precision == "float32":
            errors |= meta_batch_errors(pair, optimizer)
        found.append({name: median(values) for name, values in errors.items()})
    names = list(dict.fromkeys(name for errors in found for name in errors))
    columns = [f"{pair}, {optimizer}, {precision}" for pair, optimizer, precision in kinds]
    print(table(columns, {name: [errors.get(name) for errors in found] for name in names}), flush=True)
    exact = [errors["exact"] for errors in found if "exact" in errors]
    results = [Result("hypergradient_error_float32", max(exact), "ratio", GOALS["float32"])]
    report(results, options.json)


if __name__ == "__main__":
    main()
