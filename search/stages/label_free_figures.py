"""What a job without labels reports beside the figure that it judges by; nothing is chosen by it.

Only here are the data's own labels read, where it has any, and only once a student's training has ended.
"""

from __future__ import annotations

import torch
from torch import Tensor

from search.data import open_dataset
from search.evaluation_without_labels import (
    knn_accuracy,
    linear_probe_accuracy,
    neighbour_agreement,
    out_of_distribution_auroc,
    pixel_shuffled,
    said_of,
)
from search.label_free import JudgedBy, judged_by
from search.models import TappedModel
from search.problems import SearchProblem
from search.records import EmbeddingFigures, WithoutLabels
from search.spec import Splits
from search.stages.judging import judged_images
from search.stages.kept_figures import digest_of, kept_figures
from search.stages.material import dataset_of, teacher_of, teacher_said, training_images
from search.training.meta_losses import require_embedding
from search.trial import TrialSetting


def without_labels(setting: TrialSetting, model: TappedModel, *, is_proof: bool) -> WithoutLabels | None:
    """What is reported of a run in a job without labels beside its figure; of others nothing."""
    if setting.spec.data.is_labelled:
        return None
    judged = {"judged_by": judged_by(setting.spec).value}
    if not is_proof:
        return WithoutLabels.model_validate(judged)
    images = judged_images(setting, "test")
    mine = said_of(model, images.images, device=setting.device).embeddings
    others = teacher_said(setting, split="test").first(len(images)).embeddings
    strange = _strange(setting, images.images)
    figures = {
        "neighbour_agreement": None if mine is None or others is None else neighbour_agreement(mine, others),
        "student": _figures(setting, model, mine, strange),
        "teacher": _figures_of_teacher(setting, others, strange),
    }
    return WithoutLabels.model_validate({**judged, **figures})


def require_judges(setting: TrialSetting, *, teacher: TappedModel, student: TappedModel) -> None:
    """Raise SearchProblem where a job without labels could not be judged, or reported on."""
    if setting.spec.data.is_labelled:
        return
    if judged_by(setting.spec) is JudgedBy.NEIGHBOUR_AGREEMENT:
        require_embedding(teacher)
        require_embedding(student)
    _strange(setting, dataset_of(setting).splits["test"].images[:1])


def _figures_of_teacher(setting: TrialSetting, judged: Tensor | None, strange: Tensor) -> EmbeddingFigures:
    """Kept for all runs on this node that ask the same teacher of the same images and labels."""
    teacher, dataset, data = teacher_of(setting), dataset_of(setting), setting.spec.data
    labels = _own_labels(setting)
    depends_on = (
        teacher.model.name,
        teacher.weights_sha256,
        dataset.content_sha256,
        data.splits.model_dump_json(),
        data.input_size,
        setting.evaluation_limit,
        digest_of([strange, *(labels or ())]),
    )
    directory = setting.places.cache_directory
    return kept_figures(directory, depends_on, lambda: _figures(setting, teacher.model, judged, strange))


def _figures(
    setting: TrialSetting, model: TappedModel, judged: Tensor | None, strange: Tensor
) -> EmbeddingFigures:
    """`judged`: its embeddings (N, D) of the test images. `strange`: images out of distribution."""
    if judged is None:
        return EmbeddingFigures()
    limit = setting.evaluation_limit
    bank, outside = (
        said_of(model, images, device=setting.device).embeddings
        for images in (training_images(setting, splits="proof").images[:limit], strange)
    )
    assert bank is not None
    assert outside is not None
    auroc, labels = out_of_distribution_auroc(bank, judged, outside), _own_labels(setting)
    if labels is None:
        return EmbeddingFigures(out_of_distribution_auroc=auroc)
    known, asked = (each[:limit] for each in labels)
    return EmbeddingFigures(
        knn_accuracy=knn_accuracy(bank, known, judged, asked),
        linear_probe_accuracy=linear_probe_accuracy(bank, known, judged, asked),
        out_of_distribution_auroc=auroc,
    )


def _own_labels(setting: TrialSetting) -> tuple[Tensor, Tensor] | None:
    """The data's own labels of proof's training images and of test images, where it has them."""
    own = dataset_of(setting).own_labels
    if own is None:
        return None
    return torch.cat([own[name] for name in ("train", "meta", "validation")]), own["test"]


def _strange(setting: TrialSetting, images: Tensor) -> Tensor:
    """Images out of distribution, at most as many as these (N, C, S, S): of another data set's test split, or
    the same with their pixels shuffled.

    Raises SearchProblem, also where that data set is not to be had with these channels.
    """
    data = setting.spec.data
    if data.out_of_distribution is None:
        return pixel_shuffled(images, seed=data.splits.seed)
    other = open_dataset(
        data.out_of_distribution,
        Splits(seed=data.splits.seed),
        datasets_file=setting.places.datasets_file,
        input_size=images.shape[-1],
        cache_directory=setting.places.cache_directory,
        is_labelled=False,
    )
    found = other.splits["test"].images[: len(images)]
    if found.shape[1] != images.shape[1]:
        raise SearchProblem(
            f"the images of {data.out_of_distribution!r} have {found.shape[1]} channels, those of "
            f"{data.name!r} {images.shape[1]}: set its `channels` in datasets.toml, or choose another "
            "data.out_of_distribution",
            code="dataset_pixels",
        )
    return found
