"""Adaptive teaching with a shared classifier: the teacher comes towards the student, on an anchor."""

from __future__ import annotations

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
from search.models.tapped import evaluating
from search.pathways.derivatives import mean_square
from search.registry import Kind, register
from search.training.precision import forward_taps


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
    teacher_rate: float = searched(
        0.01,
        low=0.001,
        high=1.0,
        gt=0.0,
        le=10.0,
        description="Of the copy's learning rate beside the student's under Adam; under SGD its square is.",
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
        differences="The copy learns more slowly than the student: Adam's steps are of one size, however "
        "small a gradient is, and would take it apart. Its BatchNorm keeps the statistics it has. The "
        "classifier's bias learns by the copy's cross-entropy in the same step as everything else, not in "
        "one of its own. Where the teacher's embedding is not the mean of its last map, the embedding is "
        "matched.",
        config=AdaptiveConfig,
    ),
)
class AdaptiveTeaching(FeatureLossModule):
    """Mean squared error as SimKD's, to a copy of the teacher that comes towards the student.

    The squared error between the student's projected last map and the copy's, with gradient to both; plus
    `anchor_weight` times the summed squares by which the copy's weights (of two dimensions or more, the
    classifier's left out, which nothing moves) differ from the teacher's; plus the cross-entropy of the
    copy's logits, of which only the bias of the classifier learns and which adds nothing to the value. That
    classifier is the student's. What is trained of the copy is how far it moved, in `teacher_rate`-ths.
    """

    needs_extra = True

    def __init__(self, pair: Pair, *, config: AdaptiveConfig) -> None:
        super().__init__()
        student, head = student_and_head(pair)
        self.config, self.target = config, target_tap(pair)
        assert pair.teacher.model is not None
        self._teacher = _Unregistered(pair.teacher.model)
        self.names = moving(pair.teacher.model)
        start = dict(pair.teacher.model.named_parameters())
        self.moves = nn.ParameterList(torch.zeros_like(start[name]) for name in self.names)
        self.bias = nn.Parameter(head.bias.clone())
        self.register_buffer("weight", head.weight.clone(), persistent=False)
        part = SharedClassifier(
            student.channels, head.weight.shape[1], len(head.weight), factor=config.factor
        )
        part.take(head)
        self.without_owning(part)
        self.student_taps, self.teacher_taps = (PART,), ()

    def extra(self, before: Before) -> Extra:
        """The images themselves, for the copy of the teacher."""
        return Extra(tensors={"images": before.images})

    def weights(self) -> dict[str, Tensor]:
        """The copy's weights that are trained, by the teacher's names."""
        start = dict(self._teacher.model.named_parameters())
        return {
            name: start[name].detach() + self.config.teacher_rate * move
            for name, move in zip(self.names, self.moves, strict=True)
        }

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        taps = list(dict.fromkeys([self.target, EMBEDDING]))
        # Fused attention has no forward-mode derivative, and no second one.
        with sdpa_kernel(SDPBackend.MATH), evaluating(self._teacher.model):
            _, maps = forward_taps(
                self._teacher.model, seen.extra.tensors["images"], taps, parameters=self.weights()
            )
        embedding = maps[EMBEDDING].flatten(1).detach()
        own = F.cross_entropy(F.linear(embedding, self.get_buffer("weight"), self.bias), seen.targets)
        matching = matching_error(seen.student.maps[PART], maps[self.target])
        # The value is that of what the student takes part in: by it the loss is scaled.
        return matching + self.config.anchor_weight * self.anchor() + (own - own.detach())

    def anchor(self) -> Tensor:
        """0-dim: by how much the copy's weights differ from the teacher's; 0 at the beginning."""
        total = self.bias.new_zeros(())
        for move in self.moves:
            if move.ndim > 1:
                total = total + mean_square(self.config.teacher_rate * move) * move.numel()
        return total

    def share(self) -> None:
        """The student's classifier takes over the bias."""
        part = self.student_part
        assert isinstance(part, SharedClassifier)
        with torch.no_grad():
            part.bias.copy_(self.bias)


class _Unregistered:
    """The teacher itself; no module of the loss, so that it is in no checkpoint and in no optimiser."""

    def __init__(self, model: TappedModel) -> None:
        self.model = model


def moving(teacher: TappedModel) -> list[str]:
    """The parameters of the teacher that its copy moves, by name: all but the classifier's."""
    classifier = classifier_of(teacher.network)
    assert classifier is not None
    kept = {id(value) for value in classifier.parameters()}
    return [name for name, value in teacher.named_parameters() if id(value) not in kept]
