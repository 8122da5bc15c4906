"""Meta Knowledge Distillation: a temperature for each model, learned by hypergradient."""

from __future__ import annotations

from search.method_card import Card, Evidence, Need
from search.registry import Kind, register
from search.temperature.contract import TemperatureRuleModule, Temperatures


@register(
    Kind.TEMPERATURE_RULE,
    "learned",
    source="Liu et al. 2022, arXiv 2202.07940 (MKD)",
    card=Card(
        systems=("mkd",),
        evidence=Evidence.OUR_READING,
        needs=frozenset({Need.TEACHER_LOGITS}),
        differences="The meta loss is cross-entropy on images of their own; weights are learned beside the "
        "temperatures, which are 1 + softplus of what Adam moves. KD's factor is a number to their gradient, "
        "so that they are not learned as a second weight. A replay follows what was recorded.",
    ),
)
class Learned(TemperatureRuleModule):
    """The process's temperatures, which a search moves against the gradient of the meta loss.

    tau <- tau - beta d L_meta(w - eta grad L(w; tau)) / d tau: `search.process.learned`, with the derivatives
    of `search.hypergradient`.
    """

    is_learned = True

    def forward(self, base: Temperatures, progress: float) -> Temperatures:
        """As they are."""
        return base
