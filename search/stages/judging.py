"""What a student is judged by on a split: its accuracy, or without labels how near it is to the teacher."""

from __future__ import annotations

from torch import Tensor

from search.data import ImageSet
from search.evaluate import Evaluation, evaluate
from search.evaluation_without_labels import (
    Said,
    divergence_from_teacher,
    neighbour_agreement,
    said_of,
    similarity_difference,
    teacher_agreement,
)
from search.label_free import JudgedBy, judged_by
from search.models import TappedModel
from search.stages.material import dataset_of, teacher_logits, teacher_of, teacher_said
from search.training.meta_losses import require_embedding
from search.trial import TrialSetting


def judge(setting: TrialSetting, model: TappedModel, split: str, *, teacher: bool = True) -> Evaluation:
    """What a student reaches on a split; `Evaluation.accuracy` is what the job judges by.

    With labels the teacher is asked, for the agreement, only where `teacher` says so and it has stored its
    weights.
    """
    if not setting.spec.data.is_labelled:
        return _beside_teacher(setting, model, split)
    is_asked = teacher and setting.places.teacher_file is not None
    return evaluate(
        model,
        dataset_of(setting).splits[split],
        device=setting.device,
        teacher_logits=teacher_logits(setting, split=split) if is_asked else None,
        limit=setting.evaluation_limit,
    )


def _beside_teacher(setting: TrialSetting, model: TappedModel, split: str) -> Evaluation:
    images = judged_images(setting, split)
    student = said_of(model, images.images, device=setting.device)
    teacher = teacher_said(setting, split=split).first(len(images))
    agreement = teacher_agreement(student.logits, teacher.logits)
    if judged_by(setting.spec) is JudgedBy.TEACHER_AGREEMENT:
        figure, loss = agreement, divergence_from_teacher(student.logits, teacher.logits)
    else:
        mine, others = embeddings_of(student, model), embeddings_of(teacher, teacher_of(setting).model)
        figure, loss = neighbour_agreement(mine, others), similarity_difference(mine, others)
    return Evaluation(
        accuracy=figure, loss=loss, agreement=agreement, expected_calibration_error=None, images=len(images)
    )


def judged_images(setting: TrialSetting, split: str) -> ImageSet:
    """The images of a split, as many as are evaluated."""
    images, limit = dataset_of(setting).splits[split], setting.evaluation_limit
    return images if limit is None else images.first(limit)


def embeddings_of(said: Said, model: TappedModel) -> Tensor:
    """(N, D). Raises SearchProblem `embedding_missing`."""
    require_embedding(model)
    assert said.embeddings is not None
    return said.embeddings
