"""What a report of a job without labels says beside its arms: figures of students and teacher. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from search.allowed_choices import Cards
from search.combinations import trains_logits
from search.label_free import JudgedBy, judged_by
from search.records import EmbeddingFigures, TrialRecord
from search.registry import Kind
from search.spec import JobSpec

OF_EMBEDDINGS = tuple(EmbeddingFigures.model_fields)
SHUFFLED = "test images with their pixels shuffled"
UNTRAINED_CLASSIFIER = (
    "A student whose process has no loss on logits, nor one that gives them, has a classifier as it began."
)


def figures_without_labels(
    spec: JobSpec, runs: Mapping[str, Sequence[TrialRecord]], cards: Cards
) -> dict[str, Any]:
    """`runs`: the completed proof runs of each arm, by the arm's label. `cards`: by "kind/name".

    Every row holds the teacher's or an arm's mean figures; None where one is missing.
    """
    figure = judged_by(spec)
    results = {label: [trial.result or {} for trial in trials] for label, trials in runs.items()}
    teachers = [found["teacher"] for each in results.values() for found in map(_beside, each) if found]
    teacher = {"label": "Teacher", "agreement": None, "neighbour_agreement": None}
    return {
        "judged_by": figure.value,
        "judged_in_words": figure.in_words,
        "sentence": _sentence(figure, [trial for trials in runs.values() for trial in trials], cards),
        "out_of_distribution": spec.data.out_of_distribution or SHUFFLED,
        "rows": [
            {**teacher, **_embedding(teachers[:1])},
            *({"label": label, **_student(each)} for label, each in results.items()),
        ],
    }


def _sentence(figure: JudgedBy, trials: Sequence[TrialRecord], cards: Cards) -> str:
    processes = (trial.parameters["process"] for trial in trials)
    if all(_trains_logits(process, cards) for process in processes):
        return figure.sentence
    return f"{figure.sentence} {UNTRAINED_CLASSIFIER}"


def _trains_logits(process: Mapping[str, Any], cards: Cards) -> bool:
    """By what the cards tell; of a loss without a card nothing is known."""
    losses = [one["loss"] for one in process["pathways"] if "loss" in one]
    known = (cards.get(f"{Kind.FEATURE_LOSS}/{loss}", {}) for loss in losses)
    return bool(process["logit_losses"]) or any(map(trains_logits, known))


def _beside(result: Mapping[str, Any]) -> dict[str, Any]:
    return result.get("without_labels") or {}


def _student(results: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    beside = [_beside(result) for result in results]
    return {
        "agreement": _mean([result.get("agreement") for result in results]),
        "neighbour_agreement": _mean([found.get("neighbour_agreement") for found in beside]),
        **_embedding([found.get("student") for found in beside]),
    }


def _embedding(figures: Sequence[Mapping[str, Any] | None]) -> dict[str, float | None]:
    return {name: _mean([(found or {}).get(name) for found in figures]) for name in OF_EMBEDDINGS}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
