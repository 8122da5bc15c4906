"""What trials of one job share inside a process: the data set and the teacher, opened once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from search.data import Dataset, ImageSet, open_dataset
from search.evaluate import evaluate, predict
from search.evaluation_without_labels import Said, said_of
from search.models import TappedModel, Weights, build_model, weights_sha256
from search.preflight import require_batches
from search.problems import SearchProblem
from search.spec import Data, JobSpec, Splits
from search.trial import Places, TrialSetting


def dataset_of(setting: TrialSetting) -> Dataset:
    """The job's data set, split and in memory. Raises SearchProblem, also for splits below one batch."""
    found = _dataset(_data_key(setting.spec.data, setting.places))
    require_batches(setting.spec, found)
    return found


def require_data(dataset: Dataset, sha256: str | None) -> None:
    """Raise SearchProblem unless this is the data that the job began with (None: nobody has said which)."""
    if sha256 not in (None, dataset.content_sha256):
        raise SearchProblem(
            f"the data set {dataset.name} is not the one that the job began with: its images or labels have "
            "changed, or differ between nodes; put them back, or begin a new job",
            code="data_differs",
        )


def training_images(setting: TrialSetting, *, splits: str) -> ImageSet:
    """What a run on these splits trains on; put together once for all runs of this process."""
    return _training_images(_data_key(setting.spec.data, setting.places), splits)


@dataclass(frozen=True)
class _DataKey:
    """All that an opened data set depends on."""

    name: str
    splits: str
    input_size: int | None
    is_labelled: bool
    datasets_file: Path | None
    cache_directory: Path


def _data_key(data: Data, places: Places) -> _DataKey:
    splits = data.splits.model_dump_json()
    return _DataKey(
        name=data.name,
        splits=splits,
        input_size=data.input_size,
        is_labelled=data.is_labelled,
        datasets_file=places.datasets_file,
        cache_directory=places.cache_directory,
    )


@lru_cache(maxsize=2)
def _dataset(key: _DataKey) -> Dataset:
    return open_dataset(
        key.name,
        Splits.model_validate_json(key.splits),
        datasets_file=key.datasets_file,
        input_size=key.input_size,
        cache_directory=key.cache_directory,
        is_labelled=key.is_labelled,
    )


@lru_cache(maxsize=2)
def _training_images(key: _DataKey, splits: str) -> ImageSet:
    return _dataset(key).training_images(splits)


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
    data: _DataKey
    file: Path
    changed: int
    device: str


def teacher_of(setting: TrialSetting) -> LoadedTeacher:
    """The teacher that this job's teacher trial stored."""
    return _teacher(_teacher_key(setting))


def teacher_logits(setting: TrialSetting, *, split: str) -> Tensor:
    """Its logits (N, K) on the images of a split, unaugmented, on the CPU."""
    return _teacher_logits(_teacher_key(setting), split)


def teacher_said(setting: TrialSetting, *, split: str) -> Said:
    """Its logits and embeddings of the images of a split, unaugmented."""
    return _teacher_said(_teacher_key(setting), split)


def _teacher_key(setting: TrialSetting) -> _TeacherKey:
    places, file = setting.places, setting.places.teacher_file
    if file is None:
        raise SearchProblem("the job's teacher trial has not stored its weights yet", code="teacher_missing")
    document = setting.spec.model_dump_json(include={"teachers", "student", "data"})
    key = _data_key(setting.spec.data, places)
    return _TeacherKey(document, key, file, file.stat().st_mtime_ns, setting.device)


@lru_cache(maxsize=2)
def _teacher(key: _TeacherKey) -> LoadedTeacher:
    spec = JobSpec.model_validate_json(key.document)
    model = build(spec, _dataset(key.data), spec.teacher.model, seed=0, weights=key.file).eval()
    return LoadedTeacher(model.to(key.device), weights_sha256(model))


@lru_cache(maxsize=4)
def _teacher_logits(key: _TeacherKey, split: str) -> Tensor:
    images = _dataset(key.data).splits[split].images
    return predict(_teacher(key).model, images, device=key.device).cpu()


@lru_cache(maxsize=2)
def _teacher_said(key: _TeacherKey, split: str) -> Said:
    return said_of(_teacher(key).model, _dataset(key.data).splits[split].images, device=key.device)


def accuracy_on(model: TappedModel, images: ImageSet, device: str) -> float:
    """Share of images classified rightly."""
    return evaluate(model, images, device=device).accuracy
