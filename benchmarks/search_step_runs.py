"""The runs whose steps take turns in `benchmarks.search_step`: random images, two pairs, ten pathways."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from search.data import ImageSet
from search.distill import Distillation, Material
from search.models import TappedModel, build_model
from search.recipe import AnyPathway, LogitLoss, Pathway, Point, Process
from search.records import Learning, RunParameters
from search.spec import Training
from search.training.batches import TeacherOutputs
from tests.search.twins.distpro import DistProStep

SIZE, CLASSES, BATCH, STEPS_PER_EPOCH = 64, 10, 32, 4
COMPUTED, CACHED = "computed", "cached"
PAIRS = {
    "resnet": ("resnet18", "resnet10t"),
    "vit": ("deit_small_patch16_224", "vit_tiny_patch16_224"),
}
TRAINING = Training(
    batch_size=BATCH,
    optimizer="sgd",
    # Low enough for noise: what is measured is the cost of steps, and they have to stay finite.
    learning_rate=0.001,
    schedule="constant",
    augmentation="none",
    views=1,
    report_every_steps=10**9,
)


class Turns:
    """One run of each kind on the same pair; every call of a kind takes its next step."""

    def __init__(self, pair: str, teaching: str, *, device: str) -> None:
        teacher, student = (random_model(name, seed) for seed, name in enumerate(PAIRS[pair]))
        self.device, self.teaching = device, teaching
        self.teacher, self.student = teacher, student
        self.process = ten_pathways(len(teacher.stages), len(student.stages))
        self.train, self.meta = (
            random_images(BATCH * STEPS_PER_EPOCH, seed=1),
            random_images(BATCH * 2, seed=2),
        )
        self.outputs = _KeptOutputs(teacher, self.train, device) if teaching == CACHED else None
        self._plain = self._run(learn=None)
        self._plain_steps = self._plain.steps()
        self._distpro: DistProStep | None = None

    def plain(self) -> None:
        """A training step whose weights are given."""
        next(self._plain_steps)

    def search(self, every: int) -> Callable[[], object]:
        """Steps of a search that updates its process at every so many, at constant length as by default."""
        learn = Learning(learning_rate=0.05, update_every_steps=every, at_constant_length=True)
        steps = self._run(learn=learn).steps()
        return lambda: next(steps)

    def passes(self) -> None:
        """Forward and backward pass of student and pathways, for a batch that is at hand."""
        run = self._plain
        if not hasattr(self, "_batch"):
            self._batch = run.batch()
        batch = self._batch
        logits, maps = run.student.forward_taps(batch.images, run.losses.student_stages())
        loss, _ = run.losses.total(
            run.process.at(0.0),
            student_logits=logits,
            teacher_logits=batch.teacher_logits,
            student_maps=maps,
            teacher_maps=batch.teacher_maps,
            targets=batch.targets,
        )
        parameters = chain(run.student.parameters(), run.losses.parameters())
        torch.autograd.grad(loss, list(parameters), allow_unused=True)

    def distpro(self) -> None:
        """A step of the published design on batches that are at hand."""
        if self._distpro is None:
            run = self._run(learn=Learning(learning_rate=0.05))
            assert run.teacher is not None
            self._distpro = DistProStep(
                run.student, run.teacher, run.losses, learning_rate=TRAINING.learning_rate
            )
            self._batch = self._plain.batch()
            self._meta_batch = run.meta_batch()
        self._distpro.step(self._batch.images, self._batch.targets, *self._meta_batch)

    def _run(self, *, learn: Learning | None) -> Distillation:
        return Distillation(
            Material(
                student=copy.deepcopy(self.student),
                teacher=self.teacher,
                train=self.train,
                meta=self.meta,
                teacher_outputs=self.outputs,
            ),
            RunParameters(process=self.process, epochs=10_000, learn=learn),
            TRAINING,
            seed=0,
            device=self.device,
        )


class _KeptOutputs(TeacherOutputs):
    """The teacher's outputs on all training images, in the device's memory."""

    def __init__(self, teacher: TappedModel, train: ImageSet, device: str) -> None:
        with torch.no_grad():
            logits, maps = teacher.eval().forward_taps(train.images.float() / 255, range(len(teacher.stages)))
        self._logits, self._maps = (
            logits.to(device),
            {stage: value.to(device) for stage, value in maps.items()},
        )

    @property
    def stages(self) -> Collection[int]:
        return self._maps

    def read(self, indices: Tensor, view: int, stages: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
        return self._logits[indices], {stage: self._maps[stage][indices] for stage in stages}


def ten_pathways(teacher_stages: int, student_stages: int) -> Process:
    """The last four stages of both, each student stage taught by those of its depth or before."""
    pathways: list[AnyPathway] = [
        Pathway(teacher_stage=t, student_stage=s, transform="projection", distance="mse")
        for t, s in _ten(teacher_stages, student_stages)
    ]
    return Process(
        logit_losses=[LogitLoss()],
        pathways=pathways,
        points=[
            Point(
                progress=0.0,
                logit_weights=[1.0],
                pathway_weights=[0.1] * len(pathways),
                teacher_temperatures=[2.0],
                student_temperatures=[2.0],
            )
        ],
    )


def _ten(teacher_stages: int, student_stages: int) -> Iterator[tuple[int, int]]:
    for t in range(4):
        for s in range(t, 4):
            yield teacher_stages - 4 + t, student_stages - 4 + s


def random_model(name: str, seed: int) -> TappedModel:
    """With random weights."""
    return build_model(
        name,
        classes=CLASSES,
        channels=3,
        input_size=SIZE,
        seed=seed,
        data_mean=(0.5,) * 3,
        data_std=(0.25,) * 3,
    )


def random_images(count: int, *, seed: int) -> ImageSet:
    """Noise, with labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return ImageSet(images=images, labels=torch.arange(count) % CLASSES)
