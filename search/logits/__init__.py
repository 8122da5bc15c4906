"""Logit losses, one per file, registered under Kind.LOGIT_LOSS.

Contract: an `nn.Module` class without arguments. `forward(student_logits (B, K), teacher_logits (B, K), *,
teacher_temperature, student_temperature, targets (B,))` gives a 0-dim loss; temperatures are 0-dim tensors
that may require gradients. No gradient reaches the teacher's logits. Formulas are free of in-place operations
and twice differentiable, because the temperature's hypergradient differentiates the loss's own gradient.
"""

from torch import nn

from search import registry
from search.registry import Kind, import_siblings

import_siblings(__name__, list(__path__))


def build_logit_loss(name: str) -> nn.Module:
    """The loss of that name; UnknownMethodError names those there are."""
    loss: nn.Module = registry.get(Kind.LOGIT_LOSS, name).factory()
    return loss


__all__ = ["build_logit_loss"]
