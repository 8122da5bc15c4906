"""A chain: a transform and the operators after it, as one name: `projection+channel_attention+max_pool2`.

The transform fits the student's map to the teacher's; both maps then go through the operators, in this order.
A chain's settings are those of its transform by their names, and those of its operators as
`OPERATOR.SETTING`; an operator that stands twice in a chain has them both times. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from search.registry import Kind

SEPARATOR = "+"
BELONGS_TO = "."
Value = TypeVar("Value")


def transform_of(chain: str) -> str:
    """The name of the chain's transform."""
    return chain.partition(SEPARATOR)[0]


def operators_of(chain: str) -> list[str]:
    """The names of the chain's operators, in order; none where it is a transform alone."""
    return chain.split(SEPARATOR)[1:]


def parts_of(chain: str) -> list[tuple[Kind, str]]:
    """(kind, name) of all that the chain is made of, in order."""
    operators = [(Kind.OPERATOR, operator) for operator in operators_of(chain)]
    return [(Kind.TRANSFORM, transform_of(chain)), *operators]


def transform_settings(config: Mapping[str, Value]) -> dict[str, Value]:
    """The settings of a chain's transform."""
    return {name: value for name, value in config.items() if BELONGS_TO not in name}


def operator_settings(config: Mapping[str, Value], operator: str) -> dict[str, Value]:
    """The settings of one of a chain's operators, by their own names."""
    prefix = operator + BELONGS_TO
    return {name.removeprefix(prefix): value for name, value in config.items() if name.startswith(prefix)}


def misplaced_settings(chain: str, setting_names: Sequence[str]) -> list[str]:
    """The settings of a chain that belong to an operator which it does not have, sorted."""
    prefixes = tuple(operator + BELONGS_TO for operator in operators_of(chain))
    return sorted(name for name in setting_names if BELONGS_TO in name and not name.startswith(prefixes))
