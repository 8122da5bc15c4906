"""Plain loops of knowledge distillation to be timed step by step: ours, timm's task, torchdistill's, and the
student's step alone.

All start from the same weights, take the same images in the same order from memory, and make one update of
SGD with Nesterov momentum per step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from search.data import ImageSet, as_float
from search.distill import Distillation, Material
from search.models import TappedModel, build_model
from search.randomness import permutation
from search.recipe import constant
from search.records import RunParameters
from search.spec import Training
from search.teacher_cache import TeacherCache
from search.teacher_cache.teacher_pass import TeacherPass
from search.training.optimizers import make_optimizer

Step = Callable[[], object]
TEMPERATURE, LOGIT_WEIGHT, CROSS_ENTROPY_WEIGHT = 4.0, 0.9, 0.1
RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
ENDLESS = 10**6


@dataclass(frozen=True)
class Loop:
    """One update per call of `step`, of this network."""

    student: nn.Module
    step: Step


@dataclass(frozen=True)
class Setting:
    """What all loops share."""

    teacher: str
    student: str
    images: ImageSet
    batch_size: int
    device: torch.device
    channels_last: bool

    def model(self, name: str) -> TappedModel:
        """From the same seed each time, on the device and in the memory format."""
        channels = self.images.images.shape[1]
        built = build_model(
            name,
            classes=10,
            channels=channels,
            input_size=self.images.images.shape[-1],
            seed=0,
            data_mean=(0.5,) * channels,
            data_std=(0.25,) * channels,
        )
        return built.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def training(self, augmentation: str) -> Training:
        """Our loop's settings, its figures read every ten steps."""
        return Training(
            batch_size=self.batch_size,
            optimizer="sgd",
            learning_rate=RATE,
            momentum=MOMENTUM,
            weight_decay=DECAY,
            schedule="constant",
            augmentation=augmentation,
            views=1,
            channels_last=self.channels_last,
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images and labels, in a seeded order, without end."""
        images = self.images.images.to(self.device)
        labels = self.images.labels.to(self.device)
        count = len(labels) // self.batch_size
        for epoch in range(ENDLESS):
            order = permutation(len(labels), epoch).to(self.device)
            for rows in torch.split(order[: count * self.batch_size], self.batch_size):
                batch = (as_float(images.index_select(0, rows)) - 0.5) / 0.25
                yield batch.contiguous(memory_format=self.memory_format), labels.index_select(0, rows)


def ours(setting: Setting, *, augmentation: str = "none", cache: Path | None = None) -> Loop:
    """The training loop that all arms run, with the teacher computed or, given a directory, cached."""
    teacher = setting.model(setting.teacher)
    kept = None
    if cache is not None:
        kept = TeacherCache(
            cache,
            TeacherPass(
                teacher,
                setting.images,
                augmentation,
                seed=0,
                device=setting.device,
                channels_last=setting.channels_last,
            ),
        )
    run = Distillation(
        Material(
            student=setting.model(setting.student),
            teacher=teacher,
            train=setting.images,
            teacher_outputs=kept,
        ),
        RunParameters(
            process=constant(
                logit_loss="kd",
                logit_weight=LOGIT_WEIGHT,
                temperature=TEMPERATURE,
                cross_entropy_weight=CROSS_ENTROPY_WEIGHT,
            ),
            epochs=ENDLESS,
        ),
        setting.training(augmentation),
        seed=0,
        device=str(setting.device),
    )
    return Loop(run.student.network, partial(next, run.steps()))


def timms(setting: Setting) -> Loop:
    """timm's task for distillation of logits, in the loop of its training script."""
    from timm.optim import create_optimizer_v2
    from timm.task import LogitDistillationTask

    student, teacher = (setting.model(name).network for name in (setting.student, setting.teacher))
    task = LogitDistillationTask(
        student_model=student,
        teacher_model=teacher,
        criterion=nn.CrossEntropyLoss(),
        distill_loss_weight=LOGIT_WEIGHT,
        task_loss_weight=CROSS_ENTROPY_WEIGHT,
        temperature=TEMPERATURE,
        device=setting.device,
        verbose=False,
    ).train()
    optimizer = create_optimizer_v2(student, "sgd", lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    batches = setting.batches()

    def step() -> None:
        images, labels = next(batches)
        loss = task(images, labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return Loop(student, step)


def torchdistills(setting: Setting) -> Loop:
    """torchdistill's box, as its image classification example drives it; fed with ready batches."""
    from torchdistill.common.constant import def_logger
    from torchdistill.core.distillation import DistillationBox

    def_logger.setLevel(logging.WARNING)
    student, teacher = (setting.model(name).network for name in (setting.student, setting.teacher))
    box = DistillationBox(teacher, student, {}, _torchdistill_configuration(), setting.device, None, False, 1)
    box.pre_epoch_process(epoch=0)
    box.teacher_model.eval()
    batches = setting.batches()

    def step() -> None:
        images, labels = next(batches)
        box.post_forward_process(box.forward_process(images, labels, None))

    return Loop(student, step)


def _torchdistill_configuration() -> dict[str, Any]:
    criterion = {
        "key": "KDLoss",
        "kwargs": {
            "student_module_path": ".",
            "student_module_io": "output",
            "teacher_module_path": ".",
            "teacher_module_io": "output",
            "temperature": TEMPERATURE,
            "alpha": CROSS_ENTROPY_WEIGHT,
            "beta": LOGIT_WEIGHT,
        },
    }
    optimizer = {
        "key": "SGD",
        "kwargs": {"lr": RATE, "momentum": MOMENTUM, "nesterov": True, "weight_decay": DECAY},
    }
    return {
        "num_epochs": 1,
        "teacher": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": True},
        "optimizer": optimizer,
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": criterion, "weight": 1.0}}},
            "func2extract_model_loss": "extract_model_loss_dict",
        },
    }


def student_alone(setting: Setting) -> Loop:
    """The bound: forward pass, cross-entropy, backward pass and update on one batch that is ready."""
    student = setting.model(setting.student).network.train()
    optimizer = make_optimizer(
        setting.training("none"), student=student, losses=nn.Module(), device=setting.device
    )
    images, labels = next(setting.batches())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(student(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return Loop(student, step)
