"""Chains of operators on real maps, for the tests of all of them."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from search.operators import Operator, build_operators
from search.registry import Kind, methods

OPERATORS = [method.name for method in methods(Kind.OPERATOR)]


def random_chains(count: int, *, length: int = 3, seed: int = 0) -> list[str]:
    """Of so many operators, drawn with repetition."""
    generator = random.Random(seed)
    return ["+".join(["identity", *generator.choices(OPERATORS, k=length)]) for _ in range(count)]


def through(chain: str, student_map: Tensor, teacher_map: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Both maps after a chain's operators, with the randomness of a seed."""
    operators: list[Operator] = build_operators(chain, {})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for operator in operators:
            student_map, teacher_map = operator(student_map, teacher_map)
    return student_map, teacher_map
