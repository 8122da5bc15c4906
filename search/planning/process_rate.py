"""How fast a search learns its process: a rate that follows the number of updates. Imports no torch.

Adam moves a parameter by about its learning rate an update, so rate times updates is how far a process can
get. A rate that suits a few hundred updates lets the weights of a search of thousands grow until the student
diverges (docs/log.md has the measurements), so without a rate of its own a job gets one by this rule.
"""

from __future__ import annotations

from search.dimensions import Choices, Interval, number
from search.spec import Space

PROCESS_RATE = "process_learning_rate"
PROCESS_RATE_FACTOR = "process_learning_rate_factor"

REACH = 30.0
"""Rate times updates. Measured on CIFAR-10 with 276 and 1,116 updates; at 1,116 thrice as much diverged."""
LARGEST_USUAL_RATE = 0.1
"""However few the updates: larger ones jump over what they look for."""
WIDTH = 3.0
"""A search of the rate goes from a third of the usual one to three times it."""


def process_rate_dimension(space: Space) -> Interval:
    """The rate itself where the job has a range for it, else what multiplies the usual rate."""
    given = space.process_learning_rate
    if given is None:
        return Interval(PROCESS_RATE_FACTOR, 1 / WIDTH, WIDTH)
    return Interval(PROCESS_RATE, given.low, given.high, given.log)


def usual_process_rate(*, updates: int) -> float:
    """The rate for a search of so many updates of its process."""
    return min(LARGEST_USUAL_RATE, REACH / max(1, updates))


def process_rate(choices: Choices, *, updates: int) -> float:
    """The rate that a trial's choices mean. Raises KeyError without one, TypeError for what is no number."""
    name = PROCESS_RATE if PROCESS_RATE in choices else PROCESS_RATE_FACTOR
    value = number(choices[name])
    return value if name == PROCESS_RATE else value * usual_process_rate(updates=updates)
