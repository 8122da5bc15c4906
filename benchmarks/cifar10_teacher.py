"""The teacher of the CIFAR-10 benchmarks: resnet8_w32, trained once and kept as a file.

Trained on all 50,000 images for 12 epochs (about 20 minutes on two idle cores): it stands for the large model
that a user already has, so its training is outside every clock.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from search.data import Dataset, ImageSet, open_dataset
from search.distill import Distillation, Material
from search.evaluate import EVALUATION_BATCH, evaluate
from search.models import TappedModel, build_model, export_student
from search.recipe import constant
from search.records import RunParameters
from search.spec import Splits, Training

TEACHER = "resnet8_w32"
EPOCHS = 12
TRAINING = Training(
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.2,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    schedule="onecycle",
    channels_last=True,
    augmentation="crop_flip",
    views=64,
    report_every_steps=50,
)


def teacher_file(data: Path, cache: Path, *, device: str, threads: int, epochs: int = EPOCHS) -> Path:
    """The teacher's weights; trained here and now where the cache does not hold them.

    The name tells how it was trained, so that a teacher of other settings is not taken for this one.
    """
    settings = json.dumps(TRAINING.model_dump(mode="json", exclude_unset=True), sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    file = cache / f"{TEACHER}-{epochs}-epochs-{digest}.safetensors"
    if not file.is_file():
        _train(file, data, cache, device=device, threads=threads, epochs=epochs)
    return file


def _train(file: Path, data: Path, cache: Path, *, device: str, threads: int, epochs: int) -> None:
    import torch

    torch.set_num_threads(threads)
    cache.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset("cifar10", Splits(), directory=data, cache_directory=cache)
    images = dataset.training_images("proof")
    run = Distillation(
        Material(student=_model(dataset), teacher=None, train=images),
        RunParameters(process=constant(), epochs=epochs),
        TRAINING,
        seed=0,
        device=device,
    )
    started = time.monotonic()
    print(f"training the teacher {TEACHER}: {len(images)} images, {epochs} epochs", flush=True)
    for report in run.steps():
        if report is not None and report.step % 100 == 0:
            _say(run, report.figures, started)
    metadata = {"limbeck.role": "teacher", "limbeck.epochs": str(epochs)}
    export_student(run.student, file, metadata)
    accuracy = _accuracy(run.student, dataset.splits["test"], device)
    print(f"teacher: {100 * accuracy:.2f}% on test, {time.monotonic() - started:.0f} s", flush=True)


def _model(dataset: Dataset) -> TappedModel:
    return build_model(
        TEACHER,
        classes=dataset.classes,
        channels=dataset.channels,
        input_size=dataset.size,
        seed=0,
        data_mean=dataset.mean,
        data_std=dataset.std,
    )


def _accuracy(model: TappedModel, images: ImageSet, device: str) -> float:
    return evaluate(model, images, batch_size=EVALUATION_BATCH, device=device).accuracy


def _say(run: Distillation, figures: dict[str, float], started: float) -> None:
    elapsed = time.monotonic() - started
    left = elapsed / run.step * (run.total_steps - run.step)
    print(
        f"step {run.step}/{run.total_steps} loss {figures['loss']:.3f}, {elapsed:.0f} s, {left:.0f} s left",
        flush=True,
    )
