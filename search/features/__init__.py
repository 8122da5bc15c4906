"""Feature losses: whole methods on maps, embeddings and more, one per file, as Kind.FEATURE_LOSS.

Contract: a `FeatureLossModule` class `(pair)` or, where its card has settings, `(pair, config=...)`. The
constructor says what it has to be given (`student_taps`, `teacher_taps`) and makes its own parameters, which
train beside the student; it raises UnfitError where a pair of models cannot have this loss.
`forward(seen)` gives a 0-dim loss. No gradient reaches the teacher's outputs. Formulas are free of in-place
operations, can be differentiated twice and under forward-mode AD, stay finite on silent and on constant
outputs, and run in float64. Random numbers come from torch's generators, which a step seeds.
What is kept from step to step, or made by `prepare`, lies in buffers. What has to be known before the
student's pass, further views of the images among it, is made by `extra`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import JsonValue

from search import registry
from search.features.contract import (
    AskTeacher,
    Before,
    Extra,
    FeatureLossModule,
    Lesson,
    Lessons,
    ModelOutputs,
    Pair,
    Seen,
    Side,
    UnfitError,
    pair_of,
)
from search.problems import SearchProblem
from search.registry import InvalidConfigError, Kind, UnknownMethodError, import_siblings

import_siblings(__name__, list(__path__))


def build_feature_loss(
    name: str, config: Mapping[str, JsonValue] | None = None, *, pair: Pair, seed: int = 0
) -> FeatureLossModule:
    """The loss of that name for these models; its parameters depend on the seed, its name and the models.

    The global random state is left as it was. Raises SearchProblem: unknown_method (such settings there are
    not, either), pathway_does_not_fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_mixed(name, seed))
        try:
            method = registry.get(Kind.FEATURE_LOSS, name)
            made: FeatureLossModule = method.build(pair, config=config)
        except (UnknownMethodError, InvalidConfigError) as error:
            raise SearchProblem(str(error), code="unknown_method") from error
        except UnfitError as error:
            raise SearchProblem(f"feature loss {name!r}: {error}", code="pathway_does_not_fit") from error
    return made


def _mixed(name: str, seed: int) -> int:
    mixed = seed
    for character in name:
        mixed = (mixed * 1_000_003 + ord(character)) % (1 << 63)
    return mixed


__all__ = [
    "AskTeacher",
    "Before",
    "Extra",
    "FeatureLossModule",
    "Lesson",
    "Lessons",
    "ModelOutputs",
    "Pair",
    "Seen",
    "Side",
    "UnfitError",
    "build_feature_loss",
    "pair_of",
]
