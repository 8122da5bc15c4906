"""What trials of one job share inside a process: the data set and the teacher, opened once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from search.data import Dataset, ImageSet, open_dataset
from search.evaluate import EVALUATION_BATCH, evaluate, predict
from search.models import TappedModel, Weights, build_model, weights_sha256
from search.preflight import require_batches
from search.problems import SearchProblem
from search.spec import JobSpec, Splits
from search.trial import TrialSetting


def dataset_of(setting: TrialSetting) -> Dataset:
    """The job's data set, split and in memory. Raises SearchProblem, also for splits below one batch."""
    data = setting.spec.data
    places = setting.places
    found = _dataset(
        data.name,
        data.splits.model_dump_json(),
        places.datasets_file,
        data.input_size,
        places.cache_directory,
    )
    require_batches(setting.spec, found)
    return found


@lru_cache(maxsize=2)
def _dataset(
    name: str, splits: str, datasets_file: Path | None, input_size: int | None, cache_directory: Path
) -> Dataset:
    return open_dataset(
        name,
        Splits.model_validate_json(splits),
        datasets_file=datasets_file,
        input_size=input_size,
        cache_directory=cache_directory,
    )


def build(spec: JobSpec, dataset: Dataset, model: str, *, seed: int, weights: Weights = None) -> TappedModel:
    """A model for this data set: its classes, channels, size; from scratch it takes the data's own mean and
    std.
    """
    return build_model(
        model,
        classes=dataset.classes,
        channels=dataset.channels,
        input_size=spec.data.input_size or dataset.size,
        seed=seed,
        weights=weights,
        data_mean=dataset.mean,
        data_std=dataset.std,
        exact_size=spec.data.input_size is not None,
    )


@dataclass(frozen=True)
class LoadedTeacher:
    """The job's teacher as its trial stored it."""

    model: TappedModel
    weights_sha256: str


@dataclass(frozen=True)
class _TeacherKey:
    """All that a loaded teacher depends on."""

    document: str
    datasets_file: Path | None
    cache_directory: Path
    file: Path
    changed: int
    device: str


def teacher_of(setting: TrialSetting) -> LoadedTeacher:
    """The teacher that this job's teacher trial stored."""
    return _teacher(_teacher_key(setting))


def teacher_logits(setting: TrialSetting, *, split: str) -> Tensor:
    """Its logits (N, K) on the images of a split, unaugmented, on the CPU."""
    return _teacher_logits(_teacher_key(setting), split)


def _teacher_key(setting: TrialSetting) -> _TeacherKey:
    places, file = setting.places, setting.places.teacher_file
    if file is None:
        raise SearchProblem("the job's teacher trial has not stored its weights yet", code="teacher_missing")
    document = setting.spec.model_dump_json(include={"teachers", "student", "data"})
    changed = file.stat().st_mtime_ns
    return _TeacherKey(document, places.datasets_file, places.cache_directory, file, changed, setting.device)


def _dataset_of(key: _TeacherKey) -> Dataset:
    data = JobSpec.model_validate_json(key.document).data
    return _dataset(
        data.name, data.splits.model_dump_json(), key.datasets_file, data.input_size, key.cache_directory
    )


@lru_cache(maxsize=2)
def _teacher(key: _TeacherKey) -> LoadedTeacher:
    spec = JobSpec.model_validate_json(key.document)
    model = build(spec, _dataset_of(key), spec.teacher.model, seed=0, weights=key.file).eval()
    return LoadedTeacher(model.to(key.device), weights_sha256(model))


@lru_cache(maxsize=4)
def _teacher_logits(key: _TeacherKey, split: str) -> Tensor:
    images = _dataset_of(key).splits[split].images
    return predict(_teacher(key).model, images, batch_size=EVALUATION_BATCH, device=key.device).cpu()


def accuracy_on(model: TappedModel, images: ImageSet, device: str) -> float:
    """Share of images classified rightly."""
    return evaluate(model, images, batch_size=EVALUATION_BATCH, device=device).accuracy
