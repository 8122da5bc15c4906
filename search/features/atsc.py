"""Adaptive teaching with a shared classifier: the teacher comes towards the student, on an anchor."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from search.features.contract import Before, Extra, FeatureLossModule, Pair, Seen
from search.features.simkd import SharedConfig, matching_error, student_and_head, target_tap
from search.method_card import Card, Need, Owned, searched
from search.models import TappedModel
from search.models.embedding import EMBEDDING, classifier_of
from search.models.part import PART, SharedClassifier
from search.pathways.derivatives import mean_square
from search.registry import Kind, register


class AdaptiveConfig(SharedConfig):
    """Settings of adaptive teaching."""

    anchor_weight: float = searched(
        1.0,
        low=0.01,
        high=10.0,
        ge=0.0,
        le=1e6,
        description="Of the squared distance of the teacher's weights from where they began; the loss as a "
        "whole is divided by its first value, which makes this as many times heavier.",
    )


@register(
    Kind.FEATURE_LOSS,
    "atsc",
    source="Jang et al. 2024, arXiv 2406.08528",
    card=Card(
        systems=("atsc",),
        needs=frozenset({Need.STAGE_MAPS, Need.CLASSIFIER, Need.TRAINABLE_TEACHER, Need.LABELS}),
        trains=True,
        owns=frozenset({Owned.STUDENT_LOGITS, Owned.LAST_MAP}),
        train_time_only=False,
        differences="The teacher's BatchNorm keeps the statistics it has. The classifier's bias learns by "
        "the teacher's cross-entropy in the same step as everything else, not in one of its own. Where the "
        "teacher's embedding is not the mean of its last map, the embedding is matched.",
        config=AdaptiveConfig,
    ),
)
class AdaptiveTeaching(FeatureLossModule):
    """Mean squared error as SimKD's, to a copy of the teacher that comes towards the student.

    The squared error between the student's projected last map and the copy's, with gradient to both; plus
    `anchor_weight` times the summed squares by which the copy's weights (of two dimensions or more, the
    classifier's left out, which nothing moves) differ from the teacher's; plus the cross-entropy of the
    copy's logits, of which only the bias of the classifier learns and which adds nothing to the value. That
    classifier is the student's.
    """

    needs_extra = True

    def __init__(self, pair: Pair, *, config: AdaptiveConfig) -> None:
        super().__init__()
        student, head = student_and_head(pair)
        self.config, self.target = config, target_tap(pair)
        assert pair.teacher.model is not None
        self.teacher = _copy_of(pair.teacher.model)
        self.bias = nn.Parameter(head.bias.clone())
        self.register_buffer("weight", head.weight.clone(), persistent=False)
        self._start = _Start(pair.teacher.model)
        part = SharedClassifier(
            student.channels, head.weight.shape[1], len(head.weight), factor=config.factor
        )
        part.take(head)
        self.without_owning(part)
        self.student_taps, self.teacher_taps = (PART,), ()

    def extra(self, before: Before) -> Extra:
        """The images themselves, for the copy of the teacher."""
        return Extra(tensors={"images": before.images})

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        taps = list(dict.fromkeys([self.target, EMBEDDING]))
        self.teacher.eval()
        images = seen.extra.tensors["images"]
        # Fused attention has no forward-mode derivative, and no second one.
        with sdpa_kernel(SDPBackend.MATH):
            _, maps = self.teacher.forward_taps(images, taps)
        embedding = maps[EMBEDDING].flatten(1).detach()
        own = F.cross_entropy(F.linear(embedding, self.get_buffer("weight"), self.bias), seen.targets)
        matching = matching_error(seen.student.maps[PART], maps[self.target])
        # The value is that of what the student takes part in: by it the loss is scaled.
        return matching + self.config.anchor_weight * self.anchor() + (own - own.detach())

    def anchor(self) -> Tensor:
        """0-dim: by how much the copy's weights differ from the teacher's; 0 at the beginning."""
        total = self.bias.new_zeros(())
        for name, value in anchored(self.teacher).items():
            start = self._start.parameters[name].to(value)
            total = total + mean_square(value - start) * value.numel()
        return total

    def share(self) -> None:
        """The student's classifier takes over the bias."""
        part = self.student_part
        assert isinstance(part, SharedClassifier)
        with torch.no_grad():
            part.bias.copy_(self.bias)


class _Start:
    """The teacher's own weights; no module, so that they are in no checkpoint."""

    def __init__(self, teacher: TappedModel) -> None:
        self.parameters = {name: value.detach() for name, value in teacher.named_parameters()}


def _copy_of(teacher: TappedModel) -> TappedModel:
    """To be trained; its classifier, which nothing here moves, as constants."""
    made = copy.deepcopy(teacher).requires_grad_(True)
    classifier = classifier_of(made.network)
    assert classifier is not None
    for name, value in list(classifier.named_parameters(recurse=False)):
        delattr(classifier, name)
        classifier.register_buffer(name, value.detach())
    return made


def anchored(teacher: TappedModel) -> dict[str, Tensor]:
    """The weights that are held near where they began, by name."""
    return {name: value for name, value in teacher.named_parameters() if value.ndim > 1}
