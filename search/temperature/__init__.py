"""Temperature rules: what gives a logit loss its temperatures, one per file, as Kind.TEMPERATURE_RULE.

Contract: a `TemperatureRuleModule` class, without arguments or, where its card has settings, with `config`.
`forward((teacher, student), progress)` takes the temperatures that the process has at this step, 0-dim
float64 on the CPU, and gives those that hold: positive, finite, without gradient, a function of the arguments
and of the rule's own state.

A rule with `follows_training` is shown the outputs of each step's batch after the step (`observe`), and
changes its state then and only then: the temperatures of a step are numbers to all that differentiates it.
State lies in buffers of float64, which stay on the CPU; nothing is random.
"""

from search.registry import import_siblings
from search.temperature.contract import TemperatureRuleModule, Temperatures
from search.temperature.of_losses import TemperatureRules, build_temperature_rule

import_siblings(__name__, list(__path__))

__all__ = ["TemperatureRuleModule", "TemperatureRules", "Temperatures", "build_temperature_rule"]
