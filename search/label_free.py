"""Jobs without labels: what judges their processes and students instead. Imports no torch.

Every process of such a job weighs cross-entropy with zero. What a student is judged by stays a share in
[0, 1], so that plan, pruning and verdict compare it as they compare accuracies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import chain
from typing import Literal

from pydantic import JsonValue

from search.allowed_choices import named_by
from search.method_card import Need
from search.recipe import FeatureLoss, Process
from search.registry import Kind, methods
from search.spec import JobSpec

MetaLossName = Literal["cross_entropy", "teacher_logits", "teacher_embeddings"]


class JudgedBy(StrEnum):
    """What validation and proof call accuracy."""

    ACCURACY = "accuracy"
    TEACHER_AGREEMENT = "teacher_agreement"
    NEIGHBOUR_AGREEMENT = "neighbour_agreement"

    @property
    def in_words(self) -> str:
        """For headings."""
        return _WORDS[self]

    @property
    def sentence(self) -> str:
        """What it counts."""
        return _SENTENCES[self]


_WORDS = {
    JudgedBy.ACCURACY: "accuracy",
    JudgedBy.TEACHER_AGREEMENT: "agreement with the teacher",
    JudgedBy.NEIGHBOUR_AGREEMENT: "neighbour agreement with the teacher",
}
_SENTENCES = {
    JudgedBy.ACCURACY: "Accuracy is the share of images whose class the student names.",
    JudgedBy.TEACHER_AGREEMENT: "No label was read: students are judged by the share of images for which "
    "they name the same class as the teacher.",
    JudgedBy.NEIGHBOUR_AGREEMENT: "No label was read: students are judged by the share of images whose "
    "nearest other image, by the cosine of their embeddings, is the same for student and teacher.",
}


def meta_loss_of(spec: JobSpec) -> MetaLossName:
    """What judges a process on the meta images: as the spec says, or by what there is to judge with.

    Without labels the teacher's logits where every choice trains logits; where one may leave them untrained,
    embeddings, which all choices have in common.
    """
    asked = spec.search.process.meta_loss
    if asked != "auto":
        return asked
    if spec.data.is_labelled:
        return "cross_entropy"
    return "teacher_logits" if all(spec.search.space.logit_losses) else "teacher_embeddings"


def judged_by(spec: JobSpec) -> JudgedBy:
    """What validation and proof judge a student by; without labels it follows the meta loss."""
    if spec.data.is_labelled:
        return JudgedBy.ACCURACY
    is_by_logits = meta_loss_of(spec) == "teacher_logits"
    return JudgedBy.TEACHER_AGREEMENT if is_by_logits else JudgedBy.NEIGHBOUR_AGREEMENT


def why_labels(process: Process) -> str | None:
    """What of a process needs labels, within the settings of its methods too; None where it can be trained
    without.

    Methods that are not registered here are passed over: they are asked where they are.
    """
    own = [point.cross_entropy_weight for point in process.points]
    weights = [process.cross_entropy_weight if weight is None else weight for weight in own]
    if any(weights):
        return "the process weighs cross-entropy"
    cards = {card["id"]: card for card in (method.described() for method in methods())}
    named = chain.from_iterable(named_by(*use, cards) for use in _uses(process))
    needing = (cards[key] for key in named if key in cards and Need.LABELS in cards[key]["needs"])
    return next((f"{card['kind'].replace('_', ' ')} {card['name']!r} needs labels" for card in needing), None)


def _uses(process: Process) -> Iterator[tuple[str, Mapping[str, JsonValue], Kind]]:
    """(name, settings, kind) of all methods of a process."""
    for loss in process.logit_losses:
        yield loss.name, loss.config, Kind.LOGIT_LOSS
        if rule := loss.temperature_rule:
            yield rule.name, rule.config, Kind.TEMPERATURE_RULE
    for pathway in process.pathways:
        if isinstance(pathway, FeatureLoss):
            yield pathway.loss, pathway.config, Kind.FEATURE_LOSS
        else:
            yield pathway.transform, pathway.transform_config, Kind.TRANSFORM
            yield pathway.distance, pathway.distance_config, Kind.DISTANCE
