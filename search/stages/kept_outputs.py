"""Which of a teacher's outputs a run reads from the node's cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from search.data import ImageSet
from search.features import Pair, build_feature_loss, pair_of
from search.models import TappedModel
from search.models.tapped import Taps
from search.recipe import FeatureLoss, Pathway
from search.records import RunParameters
from search.teacher_cache import TeacherCache
from search.teacher_cache.teacher_pass import TeacherPass
from search.trial import TrialSetting


def kept_outputs(
    setting: TrialSetting,
    parameters: RunParameters,
    teacher: TappedModel,
    train: ImageSet,
    *,
    student: TappedModel,
) -> TeacherCache | None:
    """The teacher's outputs on the run's training images, computed once per node when first needed.

    None where they are of no use: mixed images are other images at every step, and a run of less than an
    epoch costs less than a pass over all images.
    """
    training = setting.spec.training
    is_mixed = training.mixup_alpha > 0 or training.cutmix_alpha > 0
    if is_mixed or (setting.max_steps or len(train)) * training.batch_size < len(train):
        return None
    return TeacherCache(
        setting.places.cache_directory,
        teacher_pass(setting, teacher, train, taps=parameters.process.taps),
        stages=taught_stages(parameters, pair_of(student, teacher, images=len(train))),
        views=min(training.views, parameters.epochs),
    )


def teacher_pass(
    setting: TrialSetting, teacher: TappedModel, train: ImageSet, *, taps: Taps = "output"
) -> TeacherPass:
    """Over the images as the job's runs see them: one seed for all, so that they can share what is kept."""
    training = setting.spec.training
    return TeacherPass(
        teacher,
        train,
        policy=training.augmentation,
        seed=setting.spec.data.splits.seed,
        device=torch.device(setting.device),
        taps=taps,
        precision=training.precision,
        channels_last=training.channels_last,
    )


def taught_stages(parameters: RunParameters, pair: Pair) -> list[int]:
    """The teacher's stages (and EMBEDDING) that the run needs again and again, in order.

    A search comes back to every pathway. A replay computes those that ever weigh enough; the others it needs
    at its first step only, where the teacher is run.
    """
    process = parameters.process
    weighing = [
        pathway
        for index, pathway in enumerate(process.pathways)
        if parameters.learn is not None
        or max(point.pathway_weights[index] for point in process.points) >= process.skip_below
    ]
    return sorted({tap for pathway in weighing for tap in _teacher_taps(pathway, pair)})


def _teacher_taps(pathway: Pathway | FeatureLoss, pair: Pair) -> Sequence[int]:
    if isinstance(pathway, Pathway):
        return [pathway.teacher_stage]
    return build_feature_loss(pathway.loss, pathway.config, pair=pair).teacher_taps
