"""What is wrong with a job, said before device time is spent; and what its steps will cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any

from pydantic import JsonValue

from search.allowed_choices import leaves_classifier, passed_over, why_no_choice
from search.catalogue_checks import label_faults, named_methods
from search.combinations import facts_of
from search.data import Dataset, majority_rate
from search.evaluate import evaluate
from search.features import Pair, build_feature_loss, pair_of
from search.label_free import JudgedBy, judged_by, meta_loss_of
from search.logits import build_logit_loss
from search.models import TappedModel, weights_sha256
from search.models.pretrained import pretrained_classes
from search.pathway_rules import CONNECTIONS, absent_stages
from search.pathways import require_distance, require_transform
from search.problems import SearchProblem
from search.recipe import Stage
from search.records import PreflightResult
from search.registry import InvalidConfigError, UnknownMethodError, methods
from search.setting_checks import setting_faults
from search.spec import NEEDING_LABELS, JobSpec, MethodUse, name_of
from search.temperature import build_temperature_rule

FLOOR_FACTOR = 1.5
KINDS = ("teacher", "student_alone", "kd", "pathways", "search")

Measure = Callable[[str], float]
"""Seconds of one step of a kind of run (one of KINDS), or of the teacher on a batch of its cache."""
Check = Callable[[str, dict[str, JsonValue]], Any]
"""Raises UnknownMethodError or InvalidConfigError where there is no such method with such settings."""


def run_preflight(
    spec: JobSpec,
    dataset: Dataset,
    *,
    teacher: TappedModel,
    student: TappedModel,
    is_teacher_ready: bool,
    measure: Measure,
    start_seconds: float = 1.0,
    device: str = "cpu",
) -> PreflightResult:
    """Check a job's parts and measure its steps.

    The teacher need not be trained yet (`is_teacher_ready`): then its accuracy is left out, with a note.
    Raises SearchProblem: unknown_method, methods_do_not_combine, dataset_too_small, pathway_does_not_fit,
    teacher_check_failed.
    """
    require_settings(spec)
    require_no_label_needed(spec)
    cards = cards_for(spec)
    require_combinations(spec, cards)
    require_batches(spec, dataset)
    require_pairs(spec, dataset)
    require_stages(spec, teacher=teacher.stages, student=student.stages)
    require_feature_losses(
        spec,
        pair_of(student, teacher, images=steps_per_epoch(spec, dataset)["search"] * spec.training.batch_size),
    )
    if not spec.data.is_labelled:
        require_classifier(spec, dataset)
    checked = Checked()
    if spec.data.is_labelled:
        checked = check_teacher(spec, dataset, teacher if is_teacher_ready else None, device=device)
    return PreflightResult(
        data_sha256=dataset.content_sha256,
        classes=dataset.classes,
        input_channels=dataset.channels,
        input_size=dataset.size,
        split_sizes=dataset.split_sizes,
        majority_rate=checked.majority,
        floor_accuracy=checked.floor,
        teacher_accuracy=checked.accuracy,
        teacher_parameters=teacher.parameter_count,
        student_parameters=student.parameter_count,
        teacher_stages=teacher.stages,
        student_stages=student.stages,
        teacher_weights_sha256=weights_sha256(teacher) if is_teacher_ready else None,
        seconds_per_step={kind: measure(kind) for kind in kinds_of(spec)},
        steps_per_epoch=steps_per_epoch(spec, dataset),
        start_seconds=start_seconds,
        notes=[
            *_notes(spec, dataset, teacher=teacher, student=student, is_teacher_ready=is_teacher_ready),
            *passed_over(spec.search.space, cards, facts_of(spec)),
            *untrained_judges(spec, cards),
        ],
        cards=cards,
    )


def kinds_of(spec: JobSpec) -> list[str]:
    """The kinds of runs that the job may have."""
    return [kind for kind in KINDS if spec.data.is_labelled or kind not in NEEDING_LABELS]


@dataclass(frozen=True)
class Checked:
    """The teacher's accuracy on validation, and what it is held against; None what could not be asked."""

    majority: float | None = None
    floor: float | None = None
    accuracy: float | None = None


def check_teacher(
    spec: JobSpec, dataset: Dataset, teacher: TappedModel | None, *, device: str = "cpu"
) -> Checked:
    """Raise SearchProblem `teacher_check_failed` for a teacher below the floor; None: there is none yet."""
    validation = dataset.splits["validation"]
    majority = majority_rate(validation.labels, classes=dataset.classes)
    floor = floor_accuracy(spec, majority=majority)
    if teacher is None:
        return Checked(majority, floor)
    accuracy = evaluate(teacher.to(device), validation, device=device).accuracy
    require_floor(spec.teacher.model, accuracy, floor=floor, majority=majority)
    return Checked(majority, floor, accuracy)


def floor_accuracy(spec: JobSpec, *, majority: float) -> float:
    """The least accuracy of a teacher: as the spec says, else 1.5 times the majority-class rate.

    Where one class is so frequent that this is out of reach, half the way from its rate to 1.
    """
    if spec.floor_accuracy is not None:
        return spec.floor_accuracy
    return min(FLOOR_FACTOR * majority, (1 + majority) / 2)


def require_floor(name: str, accuracy: float, *, floor: float, majority: float) -> None:
    """Raise SearchProblem `teacher_check_failed` for a teacher that has nothing to teach."""
    if accuracy >= floor:
        return
    raise SearchProblem(
        f"the teacher {name} reaches {accuracy:.1%} on validation, below the floor of {floor:.1%} (always "
        f"guessing the most frequent class reaches {majority:.1%}): check that its weights belong to this "
        "data set, its classes and its preprocessing, train it longer, or set floor_accuracy lower",
        code="teacher_check_failed",
    )


def require_settings(spec: JobSpec) -> None:
    """Raise SearchProblem `unknown_method` where a method does not have the settings that a choice gives it.

    Both ends of ranges and all values to choose from are tried.
    """
    for fault in setting_faults(spec, {"methods": [method.described() for method in methods()]}):
        raise SearchProblem(f"{fault.field}: {fault.message}; {fault.remedy}", code="unknown_method")
    space = spec.search.space
    kinds: tuple[tuple[str, Sequence[Sequence[str | MethodUse]], Check], ...] = (
        ("transforms", space.transforms, require_transform),
        ("distances", space.distances, require_distance),
        ("logit_losses", space.logit_losses, build_logit_loss),
    )
    for kind, sets, check in kinds:
        for index, uses in enumerate(sets):
            for place, use in enumerate(uses):
                _require_settings_of(use, check, f"search.space.{kind}.{index}.{place}")
    for index, rule in enumerate(space.temperature_rules or []):
        _require_settings_of(rule, build_temperature_rule, f"search.space.temperature_rules.{index}")


def _require_settings_of(use: str | MethodUse, check: Check, field: str) -> None:
    if not isinstance(use, MethodUse):
        return
    for config in use.configs():
        try:
            check(use.name, config)
        except (UnknownMethodError, InvalidConfigError) as error:
            raise SearchProblem(f"{field}: {error}", code="unknown_method") from error


def require_no_label_needed(spec: JobSpec) -> None:
    """Raise SearchProblem `labels_needed` where a job without labels names a method outside of sets that
    needs them; whether there is a set without, `require_combinations` asks."""
    for fault in label_faults(spec, {"methods": [method.described() for method in methods()]}):
        raise SearchProblem(f"{fault.field}: {fault.message}; {fault.remedy}", code="labels_needed")


def require_feature_losses(spec: JobSpec, pair: Pair) -> None:
    """Raise SearchProblem where these models cannot have a feature loss, with any of its settings:
    unknown_method, pathway_does_not_fit.
    """
    for index, uses in enumerate(spec.search.space.feature_losses):
        for place, use in enumerate(uses):
            for config in use.configs() if isinstance(use, MethodUse) else [{}]:
                try:
                    build_feature_loss(name_of(use), config, pair=pair)
                except SearchProblem as error:
                    field = f"search.space.feature_losses.{index}.{place}"
                    raise SearchProblem(f"{field}: {error}", code=error.code) from error


def cards_for(spec: JobSpec) -> dict[str, Any]:
    """What the methods that a job may use say of themselves, as JSON by "kind/name"; of those that are
    registered."""
    cards = {card["id"]: card for card in (method.described() for method in methods())}
    return {key: cards[key] for key in sorted(named_methods(spec, cards)) if key in cards}


def require_combinations(spec: JobSpec, cards: Mapping[str, Any]) -> None:
    """Raise SearchProblem `methods_do_not_combine` where not one choice of the space can be used."""
    fault = why_no_choice(spec.search.space, cards, facts_of(spec))
    if fault is not None:
        raise SearchProblem(f"{fault.field}: {fault.message}; {fault.remedy}", code="methods_do_not_combine")


def require_batches(spec: JobSpec, dataset: Dataset) -> None:
    """Raise SearchProblem `dataset_too_small` where a split cannot fill one batch."""
    batch_size, teacher = spec.training.batch_size, spec.teacher
    meta_batch_size = spec.search.process.meta_batch_size or min(batch_size, len(dataset.splits["meta"]))
    wanted = [("train", batch_size, "training.batch_size")]
    if teacher.weights == "train":
        wanted.append(("train", teacher.training.batch_size, "teachers.0.training.batch_size"))
    wanted.append(("meta", meta_batch_size, "search.process.meta_batch_size"))
    for split, size, field in wanted:
        available = len(dataset.splits[split])
        if available < size:
            raise SearchProblem(
                f"the {split} split has {available} images, fewer than one batch of {size}: set {field} to "
                f"at most {available}, or data.splits.{split} higher",
                code="dataset_too_small",
            )


def require_pairs(spec: JobSpec, dataset: Dataset) -> None:
    """Raise SearchProblem `dataset_too_small` where embeddings judge and a part of a meta batch has no two
    images."""
    images = min(spec.search.process.meta_batch_size or spec.training.batch_size, len(dataset.splits["meta"]))
    parts = spec.training.accumulate_parts
    if meta_loss_of(spec) == "teacher_embeddings" and images < 2 * parts:
        raise SearchProblem(
            f"a meta batch of {images} images in {parts} parts has no pairs of images, by which embeddings "
            f"are judged: set search.process.meta_batch_size and data.splits.meta to at least {2 * parts}",
            code="dataset_too_small",
        )


def require_stages(spec: JobSpec, *, teacher: list[Stage], student: list[Stage]) -> None:
    """Raise SearchProblem `pathway_does_not_fit` where listed connections name stages that are not there."""
    for place, connections in enumerate(spec.search.space.connections):
        absent = absent_stages(connections, teacher, student)
        if absent is not None:
            raise SearchProblem(
                f"search.space.connections.{place} names {absent}: name stages that are there, or use a rule "
                f"({', '.join(CONNECTIONS)})",
                code="pathway_does_not_fit",
            )


def steps_per_epoch(spec: JobSpec, dataset: Dataset) -> dict[str, int]:
    """Whole batches in an epoch, by the splits that a run trains on."""
    sizes = dataset.split_sizes
    proof = sizes["train"] + sizes["meta"] + sizes["validation"]
    return {
        name: count // spec.training.batch_size
        for name, count in {"search": sizes["train"], "proof": proof}.items()
    }


def seconds_per_step(steps: Iterator[Any], *, warm_up: int = 2, measured: int = 5) -> float:
    """Median seconds of the next steps of a run, after a few that are slower than usual."""
    for _ in range(warm_up):
        next(steps)
    seconds = []
    for _ in range(measured):
        started = time.perf_counter()
        next(steps)
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def grouped(steps: Iterator[Any], count: int) -> Iterator[None]:
    """So many steps as one; what is left over at the end is not one."""
    while len(list(islice(steps, count))) == count:
        yield


def without_classifier(spec: JobSpec, dataset: Dataset) -> str | None:
    """Why a pretrained teacher's classifier cannot be used on this data; None where it can."""
    classes = pretrained_classes(spec.teacher.model) if spec.teacher.weights == "pretrained" else None
    if classes in (None, dataset.classes):
        return None
    return (
        f"the pretrained {spec.teacher.model} tells {classes} classes apart and the data have "
        f"{dataset.classes}, so that its classifier is random"
    )


def require_classifier(spec: JobSpec, dataset: Dataset) -> None:
    """Raise SearchProblem `teacher_check_failed` where without labels a random classifier would judge."""
    reason = without_classifier(spec, dataset)
    if reason is not None and judged_by(spec) is JudgedBy.TEACHER_AGREEMENT:
        raise SearchProblem(
            f"{reason}: give a weights file whose classifier fits, list the teacher's own `classes` in "
            "datasets.toml, or set search.process.meta_loss to `teacher_embeddings`",
            code="teacher_check_failed",
        )


def untrained_judges(spec: JobSpec, cards: Mapping[str, Any]) -> Iterator[str]:
    """In words, that in a job without labels a classifier may judge that nothing has trained."""
    is_by_logits = judged_by(spec) is JudgedBy.TEACHER_AGREEMENT
    if is_by_logits and leaves_classifier(spec.search.space, cards, facts_of(spec)):
        yield (
            "search.process.meta_loss is `teacher_logits`, but a choice of search.space trains no logits: "
            "its students are judged by a classifier as it began; leave [] out of "
            "search.space.logit_losses, or set meta_loss to `teacher_embeddings`"
        )


def _notes(
    spec: JobSpec, dataset: Dataset, *, teacher: TappedModel, student: TappedModel, is_teacher_ready: bool
) -> list[str]:
    notes = []
    if not spec.data.is_labelled:
        notes.append("the teacher's accuracy was not checked: the job reads no labels")
        if reason := without_classifier(spec, dataset):
            notes.append(f"{reason}: plain and tuned KD learn nothing of it")
    elif not is_teacher_ready:
        notes.append("the teacher is not trained yet: its accuracy was not checked")
    if spec.teacher.weights == "untrained":
        notes.append("the teacher's weights are random, as asked")
    for role, model in (("teacher", teacher), ("student", student)):
        own = model.preprocessing
        if own.size != dataset.size:
            notes.append(
                f"the {role} {model.name} gets images resized from {dataset.size} to {own.size} pixels"
            )
        if not model.stages:
            notes.append(
                f"no stages of the {role} {model.name} can be tapped: only logit losses are possible"
            )
        figures = ", ".join(f"{mean:.3f}/{std:.3f}" for mean, std in zip(own.mean, own.std, strict=True))
        notes.append(f"inputs of the {role} {model.name} are normalised by mean/std {figures}")
    return notes
