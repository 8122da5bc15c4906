"""Random search."""

from __future__ import annotations

import random
from collections.abc import Sequence

from search.dimensions import Choices, Dimension, Observation
from search.registry import Kind, register


@register(Kind.STRATEGY, "random", source="Bergstra and Bengio, JMLR 13 (2012)")
def random_search(
    dimensions: Sequence[Dimension],
    observations: Sequence[Observation],
    *,
    index: int,
    seed: int,
) -> Choices:
    """Draws every choice independently and uniformly (on a log scale where the range says so).

    Each dimension has its own stream, so that one more dimension leaves the others' draws as they were.
    """
    return {
        dimension.name: dimension.at(random.Random(f"{seed}:{index}:{dimension.name}").random())
        for dimension in dimensions
    }
