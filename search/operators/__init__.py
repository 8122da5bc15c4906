"""Operators: what both maps of a pathway go through before its distance, registered under Kind.OPERATOR.

Contract. An operator is a function `(student_map, teacher_map) -> (student_map, teacher_map)`, with `config`
beside where its card has settings; most are formulas of one map, done to each (`on_each_side`). Both maps are
(B, C, H, W) of one spatial size, and leave at one spatial size with equally many channels as each other if
they came so; the teacher's has no gradient. Values of unit size leave at about that size, so that distances
keep their scale. An operator depends on nothing but its maps and torch's generators, which a step seeds: what
is drawn is the same for both. Formulas are free of in-place operations, can be differentiated twice and in
forward mode, run in float64 and bfloat16, and stay finite on maps that are silent, constant or one place
large: each says what it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import JsonValue
from torch import Tensor

from search import chains, registry
from search.registry import InvalidConfigError, Kind, import_siblings

import_siblings(__name__, list(__path__))

Operator = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def build_operators(chain: str, config: Mapping[str, JsonValue]) -> list[Operator]:
    """The operators of a chain (search/chains.py) with their settings, in order.

    Raises UnknownMethodError and InvalidConfigError, which name the part that is wrong.
    """
    if misplaced := chains.misplaced_settings(chain, [*config]):
        there = ", ".join(chains.operators_of(chain)) or "none"
        raise InvalidConfigError(
            f"the settings of transform {chain!r}: {misplaced[0]} belongs to an operator that it does not "
            f"have; its operators: {there}"
        )
    return [
        registry.get(Kind.OPERATOR, name).bound(chains.operator_settings(config, name))
        for name in chains.operators_of(chain)
    ]


__all__ = ["Operator", "build_operators"]
