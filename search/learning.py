"""What a search does beside training: after a step it asks the meta batch, and updates the process."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from search.batches import Batch, Batches
from search.hypergradient import Approximation, Lookahead
from search.hypergradient.adjoint import step_adjoint
from search.hypergradient.exact import call_with
from search.losses import DistillationLosses
from search.models import TappedModel
from search.process import Effective, LearnedProcess
from search.randomness import Seeded, mix
from search.records import Learning


class ProcessLearning:
    """Updates a learned process by the hypergradient of steps that were taken."""

    def __init__(
        self,
        process: LearnedProcess,
        learn: Learning,
        *,
        student: TappedModel,
        losses: DistillationLosses,
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        hypergradient: Approximation,
    ) -> None:
        self.process, self.learn, self.hypergradient = process, learn, hypergradient
        self.student, self.losses, self.optimizer, self.batches = student, losses, optimizer, batches
        self._before: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None

    def is_update(self, step: int) -> bool:
        """Whether the process is updated after this step."""
        return step % self.learn.update_every_steps == 0

    def is_retry(self, step: int) -> bool:
        """Whether at this step pathways of negligible weight are computed too."""
        return step % (self.learn.update_every_steps * self.learn.retry_every_updates) == 0

    def before(self, step: int) -> None:
        """To be called just before the optimiser's step, with the gradients in place."""
        if self.is_update(step):
            self._before = _copies(self.student), _copies(self.losses)

    def after(self, step: int, *, batch: Batch, effective: Effective, active: tuple[int, ...]) -> None:
        """To be called just after the optimiser's step, with the gradients still in place.

        Raises NonFiniteFigure.
        """
        if self._before is None:
            return
        (before, losses_before), self._before = self._before, None
        lookahead = Lookahead(
            student=self.student,
            losses=self.losses,
            batch=batch,
            effective=effective,
            active=active,
            before=before,
            losses_before=losses_before,
            tangent=self._tangent(step),
            random_seed=training_seed(self.batches.seed, step),
        )
        self.process.update(self.hypergradient(lookahead), active=active)

    def _tangent(self, step: int) -> dict[str, Tensor]:
        """The meta loss's gradient after the step, pulled back through the step."""
        images, targets = self.batches.meta_at(step, self.learn.meta_batch_size)
        named = dict(self.student.named_parameters())
        with Seeded(mix(self.batches.seed, 3, step), self.batches.device):
            logits, _ = call_with(self.student, [], named, images)
        loss = F.cross_entropy(logits, targets)
        # A parameter that the logits do not depend on has no say in the meta loss.
        vectors = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
        return dict(
            zip(named, step_adjoint(self.optimizer, list(named.values()), list(vectors)), strict=True)
        )


def training_seed(seed: int, step: int, part: int = 0) -> int:
    """Of the randomness inside a step's training forward pass, of this part of the batch."""
    return mix(seed, 2, step, part) if part else mix(seed, 2, step)


def _copies(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
