"""DistPro's search step as published, the yardstick of ours: search by finite differences, one update a step.

Written from the description of the release (arXiv 2204.05547), with one correction: the release never puts
the weights back after its virtual step. Every forward pass computes the teacher anew, as there: five forward
passes and three backward passes of the student, five of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from search.models.tapped import TappedModel
from search.training.losses import DistillationLosses

RADIUS = 1e-2


class DistProStep:
    """Student, transforms and process weights (softmax with a null pathway), all updated by one `step`."""

    def __init__(
        self,
        student: TappedModel,
        teacher: TappedModel,
        losses: DistillationLosses,
        *,
        learning_rate: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        self.student, self.teacher, self.losses = student, teacher, losses
        self.rate, self.momentum, self.decay = learning_rate, momentum, weight_decay
        self.optimizer = torch.optim.SGD(
            [*student.parameters(), *losses.parameters()],
            lr=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=True,
        )
        self.logits = torch.ones(
            len(losses.process.pathways), device=next(student.parameters()).device, requires_grad=True
        )
        self.adam = torch.optim.Adam([self.logits], lr=0.1, betas=(0.5, 0.999))

    def step(self, images: Tensor, targets: Tensor, meta_images: Tensor, meta_targets: Tensor) -> Tensor:
        """One update of the process, then one of the weights; the process's gradient, (P,)."""
        parameters = [*self.student.parameters(), *self.losses.parameters()]
        before = [value.detach().clone() for value in parameters]
        self._virtual_step(parameters, images, targets)
        loss = F.cross_entropy(self._logits_with_teacher(meta_images), meta_targets)
        vectors = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        norm = torch.sqrt(sum((v.square().sum() for v in vectors), torch.zeros((), device=images.device)))
        epsilon = RADIUS / norm
        slopes = []
        for sign in (1.0, -1.0):
            self._put(parameters, [b + sign * epsilon * v for b, v in zip(before, vectors, strict=True)])
            slopes.append(torch.autograd.grad(self._loss(images, targets), self.logits)[0])
        self._put(parameters, before)
        gradient = -self.rate * (slopes[0] - slopes[1]) / (2 * epsilon)
        self.logits.grad = gradient
        self.adam.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss(images, targets).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return gradient

    def weights(self) -> Tensor:
        """The pathways' weights (P,): softmax with an appended constant logit 1."""
        return torch.softmax(torch.cat([self.logits, self.logits.new_ones(1)]), dim=0)[:-1]

    def _virtual_step(self, parameters: Sequence[Tensor], images: Tensor, targets: Tensor) -> None:
        """Momentum as in the optimiser, its Nesterov part left out as in the release."""
        gradients = torch.autograd.grad(
            self._loss(images, targets), parameters, allow_unused=True, materialize_grads=True
        )
        stepped = []
        for value, gradient in zip(parameters, gradients, strict=True):
            velocity = self.optimizer.state.get(value, {}).get("momentum_buffer")
            direction = gradient + self.decay * value.detach()
            stepped.append(
                value.detach()
                - self.rate * (direction if velocity is None else direction + self.momentum * velocity)
            )
        self._put(parameters, stepped)

    def _loss(self, images: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            _, teacher_maps = self.teacher.forward_taps(images, self.losses.teacher_stages())
        logits, maps = self.student.forward_taps(images, self.losses.student_stages())
        pathways = self.losses.pathway_losses(maps, teacher_maps)
        return F.cross_entropy(logits, targets) + pathways @ self.weights()

    def _logits_with_teacher(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            self.teacher.forward_taps(images, self.losses.teacher_stages())
        return self.student.forward(images)

    def _put(self, parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)
