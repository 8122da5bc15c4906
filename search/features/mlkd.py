"""Multi-level logit distillation: images, classes and the batch, at several temperatures, in two views."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from search.augment.rand_augment import two_operations
from search.augment.sampling import as_bytes, as_unit
from search.devices import sent
from search.features.contract import Before, Extra, FeatureLossModule, Pair, Seen
from search.logits.divergences import divergence, log_softened
from search.method_card import LEAST_BATCH, Card, MethodConfig, Need, searched
from search.registry import Kind, register

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


class LevelsConfig(MethodConfig):
    """Settings of multi-level logit distillation."""

    class_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0.0, le=1e6, description="Of how classes correlate over the batch."
    )
    batch_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0.0, le=1e6, description="Of how the batch's images correlate."
    )
    strong_weight: float = searched(
        1.0, low=0.1, high=10.0, ge=0.0, le=1e6, description="Of the strong view beside the weak one."
    )
    least_sure_share: float = Field(
        default=0.5,
        gt=0.0,
        le=1.0,
        description="Of the images (and classes), those of which the teacher is least sure in the weak view: "
        "they alone are taught there.",
    )


@register(
    Kind.FEATURE_LOSS,
    "mlkd",
    source="Jin et al. 2023, Multi-Level Logit Distillation, CVPR",
    card=Card(
        systems=("mlkd",),
        least_batch=LEAST_BATCH,
        needs=frozenset({Need.TEACHER_LOGITS, Need.VIEWS}),
        teaches_logits=True,
        zero_at_equality=True,
        differences="As meant, not as released. The release multiplies means over the batch by the masks, "
        "which leaves about half of every image and class; takes T = 2 and 6 of the strong view, and its "
        "correlations of classes, from the weak one; and leaves the strong view's correlations out of the "
        "total. That classes are masked too is from memory. The strong view is made of the weak one by two "
        "of RandAugment's operations. Cross-entropy on it is left out: no label is needed.",
        config=LevelsConfig,
    ),
)
class MultilevelLogits(FeatureLossModule):
    """T^2 KL, and squared differences of the correlations of classes and of images, at T from 2 to 6.

    With probabilities P (B, K): ||P_s^T P_s - P_t^T P_t||^2 / K and ||P_s P_s^T - P_t P_t^T||^2 / B. All on
    the batch as it is, for the less sure half of its images and classes, and on a strongly changed view of
    it, for all.
    """

    needs_extra = True

    def __init__(self, pair: Pair, *, config: LevelsConfig) -> None:
        super().__init__()
        self.config = config

    def extra(self, before: Before) -> Extra:
        """The strong view, and the teacher's logits (B, K) of it."""
        strong = strongly_changed(before.images)
        return Extra(strong[:, None], {"strong": before.ask_teacher(strong, ()).logits})

    def forward(self, seen: Seen) -> Tensor:
        """The loss, 0-dim."""
        assert seen.views is not None
        weak, strong = seen.teacher.logits.detach(), seen.extra.tensors["strong"].detach()
        share = self.config.least_sure_share
        by_weak = self.apart(
            seen.student.logits, weak, images=unsure_images(weak, share), classes=rare_classes(weak, share)
        )
        by_strong = self.apart(
            seen.views.logits,
            strong,
            images=torch.ones_like(strong[:, 0]),
            classes=torch.ones_like(strong[0]),
        )
        return by_weak + self.config.strong_weight * by_strong

    def apart(self, student: Tensor, teacher: Tensor, *, images: Tensor, classes: Tensor) -> Tensor:
        """Of logits (B, K), 0-dim; images (B,) and classes (K,) say what counts, by 0 and 1."""
        total = student.new_zeros(())
        for temperature in TEMPERATURES:
            own, theirs = log_softened(student, temperature), log_softened(teacher, temperature)
            by_image = temperature**2 * (images * divergence(theirs, own)).mean()
            by_class = correlations_apart(own.exp().T, theirs.exp().T, classes)
            by_batch = correlations_apart(own.exp(), theirs.exp(), images)
            total = total + by_image + self.config.class_weight * by_class
            total = total + self.config.batch_weight * by_batch
        return total


def correlations_apart(one: Tensor, other: Tensor, counting: Tensor) -> Tensor:
    """Squared differences of the rows' inner products, in rows (N, ...) that count (N,), over N; 0-dim."""
    differences = one @ one.T - other @ other.T
    return (counting * differences.square().sum(dim=1)).mean()


def unsure_images(teacher: Tensor, share: float) -> Tensor:
    """(B,) of logits (B, K): 1 for that share of the images whose largest probability is least, else 0."""
    return _lowest(log_softened(teacher).exp().amax(dim=1), share)


def rare_classes(teacher: Tensor, share: float) -> Tensor:
    """(K,) of logits (B, K): 1 for that share of the classes to which the batch gives least, else 0."""
    return _lowest(log_softened(teacher).exp().sum(dim=0), share)


def _lowest(values: Tensor, share: float) -> Tensor:
    return (values <= torch.quantile(values, share)).to(values)


def strongly_changed(images: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1], each after two operations of its own, drawn by torch's generator."""
    # On the CPU, so that all devices draw the same.
    words = sent(torch.randint(1 << 62, (len(images),)), images.device)
    return two_operations(as_unit(as_bytes(images)), words).to(images)
