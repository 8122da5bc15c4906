"""Steps of plain KD and of a pruned replay, taken in turn: what `benchmarks.replay_cost` measures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import Goal, Result, Spread
from search.data import ImageSet
from search.distill import Distillation, Material
from search.models import TappedModel, build_model
from search.planning.arms import plain_kd
from search.recipe import Pathway, Process
from search.records import RunParameters
from search.registry import load_everything
from search.spec import Training
from search.teacher_cache import TeacherCache
from search.teacher_cache.teacher_pass import TeacherPass
from search.training.batches import TeacherOutputs

TEACHER, STUDENT = "resnet8_w32", "resnet8_w8"
IMAGES, CLASSES, BATCH = 5000, 10, 128
LAST = 2
WARM_UP, LIVE_STEPS, READS = 5, 15, 50
DISTANCES = (("projection", "mse"), ("identity", "attention"))


def images(seed: int) -> ImageSet:
    """Noise of CIFAR's size: what a step costs does not depend on the pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(IMAGES) % CLASSES)


def model(name: str, seed: int) -> TappedModel:
    """With random weights."""
    return build_model(
        name,
        classes=CLASSES,
        channels=3,
        input_size=32,
        seed=seed,
        data_mean=(0.5, 0.5, 0.5),
        data_std=(0.25, 0.25, 0.25),
    )


def replayed() -> Process:
    """Plain KD and two pathways."""
    kd = plain_kd()
    pathways = [
        Pathway(teacher_stage=LAST, student_stage=LAST, transform=transform, distance=distance)
        for transform, distance in DISTANCES
    ]
    (point,) = kd.points
    points = [point.model_copy(update={"pathway_weights": [1.0] * len(pathways)})]
    return Process.model_validate(kd.model_copy(update={"pathways": pathways, "points": points}).model_dump())


@dataclass(frozen=True)
class Bench:
    """Models, images and a cache that all measurements share."""

    teacher_pass: TeacherPass
    cache: TeacherCache
    training: Training

    def run(self, process: Process, *, outputs: TeacherOutputs | None) -> Iterator[Any]:
        """The steps of a run without end, on a student of its own."""
        material = Material(
            student=model(STUDENT, seed=1),
            teacher=self.teacher_pass.teacher,
            train=self.teacher_pass.images,
            teacher_outputs=outputs,
        )
        parameters = RunParameters(process=process, epochs=10_000)
        return Distillation(material, parameters, self.training, seed=0, device=self.device).steps()

    def seconds(self, runs: dict[str, Iterator[Any]], *, steps: int) -> dict[str, list[float]]:
        """Seconds of each step, the runs taking turns."""
        found: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(WARM_UP + steps):
            for name, run in runs.items():
                self._synchronise()
                started = time.perf_counter()
                next(run)
                self._synchronise()
                if number >= WARM_UP:
                    found[name].append(time.perf_counter() - started)
        return found

    @property
    def device(self) -> str:
        """The device's kind."""
        return self.teacher_pass.device.type

    def _synchronise(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def read_seconds(self) -> list[float]:
        """Of reading a batch's logits and maps from the cache."""
        found = []
        for seed in range(READS):
            indices = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(seed))[:BATCH]
            self._synchronise()
            started = time.perf_counter()
            self.cache.read(indices, 0, [LAST])
            self._synchronise()
            found.append(time.perf_counter() - started)
        return found

    def pass_seconds(self) -> float:
        """Of the teacher's pass over a view, nothing kept."""
        started = time.perf_counter()
        self.teacher_pass.over_view(1, [LAST], lambda outputs: None)
        return time.perf_counter() - started

    def build_seconds(self) -> float:
        """Of the same with all of it written."""
        started = time.perf_counter()
        self.cache.logits(torch.arange(1), view=1)
        return time.perf_counter() - started


def measure(device: str, directory: Path, *, steps: int) -> tuple[list[Result], dict[str, Any]]:
    """All figures."""
    load_everything()
    training = Training(batch_size=BATCH, augmentation="crop_flip", views=1, report_every_steps=10**9)
    teacher, train = model(TEACHER, seed=0).to(device).eval(), images(0)
    whole = TeacherPass(teacher, train, training.augmentation, seed=0, device=torch.device(device))
    cache = TeacherCache(directory, whole, stages=[LAST])
    bench = Bench(whole, cache, training)
    cached = bench.seconds(
        {"kd": bench.run(plain_kd(), outputs=cache), "replay": bench.run(replayed(), outputs=cache)},
        steps=steps,
    )
    live = bench.seconds({"replay": bench.run(replayed(), outputs=None)}, steps=min(steps, LIVE_STEPS))
    kd, replay, read = (
        Spread.of(values) for values in (cached["kd"], cached["replay"], bench.read_seconds())
    )
    passes, builds = bench.pass_seconds(), bench.build_seconds()
    results = [
        Result("replay_cost_kd_step", 1000 * kd.median, "milliseconds"),
        Result("replay_cost_live", Spread.of(live["replay"]).median / kd.median, "ratio"),
        Result("replay_cost_read_share", read.median / kd.median, "ratio", Goal("<=", 0.02)),
        Result("replay_cost_build", builds / passes, "ratio"),
        Result("replay_cost", ratio(cached["replay"], cached["kd"]), "ratio", Goal("<=", 1.15)),
    ]
    details = {"kd": kd.in_words(), "replay": replay.in_words(), "read": read.in_words()}
    return results, details


def ratio(seconds: list[float], base: list[float]) -> float:
    """The median of the ratios of steps that were taken one after the other."""
    return statistics.median(one / other for one, other in zip(seconds, base, strict=True))
