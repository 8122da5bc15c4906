"""The CIFAR-10 task of the benchmarks as a job: resnet8_w32 teaches resnet8_w8 on 5,000 images.

Of the 5,000 a search trains on 3,000, judges its process on 1,000 and its candidates on 1,000; the proof
trains on all of them. Test are the 10,000 test images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cifar10_teacher import TEACHER
from search.datasets_file import write_datasets_file
from search.spec import (
    Budget,
    Data,
    JobSpec,
    ProcessSettings,
    Proof,
    Pruning,
    Range,
    Search,
    Space,
    Splits,
    Student,
    Teacher,
    Training,
)

STUDENT = "resnet8_w8"
TRAINING = Training(
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.2,
    weight_decay=5e-4,
    schedule="onecycle",
    channels_last=True,
    augmentation="crop_flip",
    views=8,
    report_every_steps=1000,
    validate_every_epochs=1000,
)
PROCESS = ProcessSettings(
    # Under SGD the sum of the weights multiplies the learning rate, and a search one step ahead would take
    # the weights away (docs/log.md).
    at_constant_length=True,
)
SPACE = Space(
    connections=["last"],
    transforms=[["projection"]],
    distances=[["mse", "attention"]],
    logit_losses=[["kd"]],
    process_learning_rate=Range(low=0.05, high=0.2),
    update_every_steps=[1],
)


def write_place(data: Path, cache: Path) -> tuple[Path, str]:
    """The file that names the data directory, and the name in it."""
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / "datasets.toml"
    write_datasets_file(file, data)
    return file, _name_in(file)


def job_spec(
    *,
    data_name: str,
    teacher: Path,
    search_epochs: int,
    epochs: int,
    seeds: list[int],
    trials: int,
    at_once: int,
    training: dict[str, Any] | None = None,
    search: dict[str, Any] | None = None,
) -> JobSpec:
    """The job: its search over `search_epochs`, its proof over `epochs`. `training` and `search` replace
    fields of the task's own."""
    settings: dict[str, Any] = {
        "space": SPACE,
        "process": PROCESS,
        "pruning": Pruning(enabled=False),
        "concurrent_trials": at_once,
        **(search or {}),
    }
    return JobSpec(
        teachers=[Teacher(model=TEACHER, weights=str(teacher))],
        student=Student(model=STUDENT),
        data=Data(name=data_name, splits=Splits(train=3000, meta=1000, validation=1000)),
        training=Training.model_validate({**TRAINING.model_dump(), **(training or {})}),
        search=Search(**settings),
        proof=Proof(epochs=epochs, seeds=seeds, arms=["student_alone", "plain_kd", "tuned_kd", "searched"]),
        budget=Budget(trials=trials, epochs_per_trial=search_epochs),
    )


def _name_in(file: Path) -> str:
    import tomllib

    (name,) = tomllib.loads(file.read_text())["datasets"]
    return str(name)
