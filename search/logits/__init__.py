"""Logit losses, one per file, registered under Kind.LOGIT_LOSS.

Contract: an `nn.Module` class, without arguments or, where its card has settings, with `config`.
`forward(student_logits (B, K), teacher_logits (B, K), *, teacher_temperature, student_temperature, targets
(B,))` gives a 0-dim loss; temperatures are 0-dim tensors that may require gradients. No gradient reaches the
teacher's logits. Formulas are free of in-place operations and twice differentiable, because the temperature's
hypergradient differentiates the loss's own gradient. They stay finite on logits of 1e4.
"""

from collections.abc import Mapping

from pydantic import JsonValue
from torch import nn

from search import registry
from search.registry import Kind, import_siblings

import_siblings(__name__, list(__path__))


def build_logit_loss(name: str, config: Mapping[str, JsonValue] | None = None) -> nn.Module:
    """The loss of that name with these settings (others: their defaults).

    Raises UnknownMethodError, which names those there are, and InvalidConfigError.
    """
    loss: nn.Module = registry.get(Kind.LOGIT_LOSS, name).build(config=config)
    return loss


__all__ = ["build_logit_loss"]
