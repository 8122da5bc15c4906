"""Temperatures that a search leaves as they are."""

from __future__ import annotations

from search.method_card import Card
from search.registry import Kind, register
from search.temperature.contract import TemperatureRuleModule, Temperatures


@register(
    Kind.TEMPERATURE_RULE,
    "fixed",
    source="Hinton, Vinyals, Dean 2015, arXiv 1503.02531",
    card=Card(
        differences="A search keeps `process.initial_temperature`; a replay follows what was recorded."
    ),
)
class Fixed(TemperatureRuleModule):
    """The process's temperatures, which no search moves."""

    def forward(self, base: Temperatures, progress: float) -> Temperatures:
        """As they are."""
        return base
