"""CIFAR-10 as class folders: read as published, and a whole small job in colour, with SGD and crops."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from search.commands.local_job import LocalJob
from search.data import open_dataset
from search.records import PreflightResult, StageName, TrialState
from search.spec import JobSpec, Splits

pytestmark = [pytest.mark.slow, pytest.mark.cifar10]

PUBLISHED_MEAN = (0.4914, 0.4822, 0.4465)
PUBLISHED_DEVIATION = (0.2470, 0.2435, 0.2616)

SPEC = {
    "teachers": [{"model": "test_resnet", "training": {"epochs": 6}}],
    "student": {"model": "test_efficientnet"},
    "data": {"name": "cifar10", "splits": {"train": 3000, "meta": 500, "validation": 500, "test": 1000}},
    "training": {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "augmentation": "crop_flip",
    },
    "budget": {"trials": 1, "epochs_per_trial": 2},
    "proof": {"seeds": [0, 1], "arms": ["student_alone", "tuned_kd", "searched"]},
}


@pytest.fixture(scope="module")
def directory() -> Path:
    found = os.environ.get("LIMBECK_CIFAR10_DIR")
    if not found:
        pytest.skip("set LIMBECK_CIFAR10_DIR to CIFAR-10 as train/<class>/* and test/<class>/*")
    return Path(found)


@pytest.fixture(scope="module")
def datasets_file(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("cifar10") / "datasets.toml"
    file.write_text(f'[datasets.cifar10]\nkind = "imagefolder"\npath = "{directory}"\n')
    return file


def test_all_images_are_read_and_have_the_published_figures(datasets_file: Path, tmp_path: Path) -> None:
    data = open_dataset("cifar10", Splits(), datasets_file=datasets_file, cache_directory=tmp_path)
    assert sum(len(split.labels) for split in data.splits.values()) == 60_000
    assert len(data.splits["test"].labels) == 10_000
    assert (data.classes, data.channels, data.size) == (10, 3, 32)
    # The files are JPEG copies of the original images.
    assert data.mean == pytest.approx(PUBLISHED_MEAN, abs=0.003)
    assert data.std == pytest.approx(PUBLISHED_DEVIATION, abs=0.003)


def test_a_job_in_colour_runs_to_its_verdict(datasets_file: Path, tmp_path: Path) -> None:
    job = LocalJob(JobSpec.model_validate(SPEC), tmp_path, datasets_file=datasets_file)
    report = job.run()
    assert report is not None
    results = {record.key.stage: record.result for record in job.records}
    preflight = PreflightResult.model_validate(results[StageName.PREFLIGHT])
    assert (preflight.input_channels, preflight.classes) == (3, 10)
    assert preflight.teacher_accuracy is not None
    assert preflight.teacher_accuracy >= preflight.floor_accuracy > 0.1
    assert all(record.state != TrialState.FAILED for record in job.records)
    assert report["test_images"] == 1000
    means = [arm["mean"] for arm in report["arms"]]
    assert all(math.isfinite(mean) and mean > 0.15 for mean in means), means
