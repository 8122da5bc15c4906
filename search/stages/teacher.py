"""The teacher stage: train the teacher on the train split only, or load the weights that were given."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from math import gcd
from pathlib import Path
from typing import Any

from search.checkpoint import to_bytes
from search.devices import device_name
from search.distill import Distillation, Material, Report
from search.models import TappedModel, Weights, export_student, weights_sha256
from search.problems import SearchProblem
from search.randomness import mix
from search.recipe import constant
from search.records import RunParameters, TeacherResult
from search.spec import Training
from search.stages.material import accuracy_on, build, dataset_of
from search.trial import Outcome, Purpose, TrialSetting

VERSIONED = ("limbeck", "torch", "torchvision", "timm", "kornia")


class TeacherRun:
    """Trains, or takes from the cache of trained teachers, or loads."""

    def __init__(self, setting: TrialSetting, state: dict[str, Any] | None) -> None:
        self.setting = setting
        self.dataset = dataset_of(setting)
        self.cached = self._cache_file()
        self.was_cached = self.cached is not None and self.cached.is_file()
        self.model = self._build()
        self.run = self._training() if self.cached is not None and not self.was_cached else None
        if self.run is not None and state is not None:
            self.run.load(state)

    def _build(self) -> TappedModel:
        teacher, spec = self.setting.spec.teacher, self.setting.spec
        weights: Weights = None
        if self.was_cached:
            weights = self.cached
        elif teacher.weights == "pretrained":
            weights = "pretrained"
        elif teacher.weights not in ("train", "untrained"):
            weights = self._weights_file(teacher.weights)
        return build(spec, self.dataset, teacher.model, seed=_seed(self.setting), weights=weights)

    def _weights_file(self, name: str) -> Path:
        """The file inside the weights root, after resolving links."""
        root = self.setting.places.weights_root
        path = Path(name) if root is None else (root / name).resolve()
        if root is not None and not path.is_relative_to(root.resolve()):
            raise SearchProblem(f"{name} lies outside the weights root", code="weights_not_found")
        if not path.is_file():
            raise SearchProblem(f"there is no weights file {name} on this worker", code="weights_not_found")
        return path

    def _cache_file(self) -> Path | None:
        """Where a teacher trained like this is kept: named by all that its bits depend on."""
        spec, setting = self.setting.spec, self.setting
        if spec.teacher.weights != "train":
            return None
        content = {
            "teacher": spec.teacher.model_dump(),
            "training": _teacher_training(setting).model_dump(
                exclude={"report_every_steps", "validate_every_epochs"}
            ),
            "splits": spec.data.splits.model_dump(),
            "split_sizes": self.dataset.split_sizes,
            "input_size": spec.data.input_size,
            "data": self.dataset.content_sha256,
            "versions": [version(name) for name in VERSIONED],
            "threads": setting.threads,
            "device": device_name(setting.device),
            "max_steps": setting.max_steps,
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return setting.places.cache_directory / "teachers" / f"{digest[:32]}.safetensors"

    def _training(self) -> Distillation:
        setting = self.setting
        epochs = setting.spec.teacher.training.epochs
        validation = self.dataset.splits["validation"]
        return Distillation(
            Material(
                student=self.model,
                teacher=None,
                train=self.dataset.splits["train"],
                validate=lambda model: {"accuracy": accuracy_on(model, validation, setting.device)},
            ),
            RunParameters(process=constant(), epochs=epochs),
            _teacher_training(setting),
            seed=_seed(setting),
            augmentation_seed=setting.spec.data.splits.seed,
            device=setting.device,
            max_steps=setting.max_steps,
        )

    def steps(self) -> Iterator[Report | None]:
        if self.run is not None:
            yield from self.run.steps()

    def state(self) -> bytes:
        return to_bytes(self.run.state() if self.run is not None else {})

    def outcome(self) -> Outcome:
        file = self.setting.places.trial_directory / "teacher.safetensors"
        model = self.run.trained if self.run is not None else self.model
        export_student(model, file, {"limbeck.role": "teacher"})
        if self.run is not None and self.cached is not None:
            _keep(file, self.cached)
        result = TeacherResult(
            accuracy=self._accuracy(model.to(self.setting.device)),
            weights_sha256=weights_sha256(model),
            cached=self.was_cached,
            data_sha256=self.dataset.content_sha256,
        )
        return Outcome(result.model_dump(mode="json"), {"teacher.safetensors": file})

    def _accuracy(self, model: TappedModel) -> float | None:
        """On validation; None without labels."""
        if not self.setting.spec.data.is_labelled:
            return None
        return accuracy_on(model, self.dataset.splits["validation"], self.setting.device)


def _seed(setting: TrialSetting) -> int:
    return mix(Purpose.TEACHER, setting.spec.teacher.training.seed)


def _teacher_training(setting: TrialSetting) -> Training:
    """The job's training settings with the teacher's own optimiser, rate and batch size."""
    own = setting.spec.teacher.training
    return setting.spec.training.model_copy(
        update={
            "optimizer": "adamw",
            "schedule": "onecycle",
            "learning_rate": own.learning_rate,
            "batch_size": own.batch_size,
            "accumulate_parts": gcd(setting.spec.training.accumulate_parts, own.batch_size),
        }
    )


def _keep(file: Path, cached: Path) -> None:
    """Into the cache under a temporary name, then renamed: readers see it whole or not at all."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    temporary = cached.with_suffix(f".{hashlib.sha256(str(file).encode()).hexdigest()[:8]}.part")
    shutil.copyfile(file, temporary)
    temporary.replace(cached)
