"""Feature pathways: transforms (Kind.TRANSFORM) and distances (Kind.DISTANCE), one per file.

Contracts. A transform is an `nn.Module` class `(student: Stage, teacher: Stage)`; `forward(student_map
(B, Cs, Hs, Ws), teacher_shape (Ct, Ht, Wt))` gives (B, Ct, Ht, Wt). A distance is a function
`(student_map, teacher_map) -> 0-dim mean`, both (B, C, H, W) of one spatial size; no gradient reaches the
teacher's map. Both take `config` beside where their cards have settings. Between them both maps go through
the operators of the pathway's chain (search/chains.py, search/operators/).

A distance is 0 between equal maps and about 1 between independent normal maps of unit variance, whatever
their sizes, so that one range of weights fits all; it is 0 where a map cannot say anything (one place, a
batch of one). All formulas are free of in-place operations, can be differentiated twice, stay finite on
silent and on constant maps, and run in float64 and under forward-mode AD.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from search import chains, registry
from search.operators import build_operators
from search.recipe import Pathway, Stage, with_settings
from search.registry import Kind, import_siblings

import_siblings(__name__, list(__path__))


class PathwayLoss(nn.Module):
    """One pathway: its transform, then its operators, then its distance. Not scaled and not weighted.

    Raises UnknownMethodError, InvalidConfigError.
    """

    def __init__(self, pathway: Pathway, transform: nn.Module) -> None:
        super().__init__()
        self.pathway, self.transform = pathway, transform
        self._operators = build_operators(pathway.transform, pathway.transform_config)
        self._distance = registry.get(Kind.DISTANCE, pathway.distance).bound(pathway.distance_config)

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """The loss, 0-dim, of a student's and a teacher's map of the pathway's stages."""
        return self.distance(self.transformed(student_map, teacher_map), teacher_map)

    def transformed(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """The student's map at the teacher's shape, before the operators."""
        moved: Tensor = self.transform(student_map, tuple(teacher_map.shape[1:]))
        return moved

    def distance(self, transformed: Tensor, teacher_map: Tensor) -> Tensor:
        """The loss, 0-dim, of a map that has been transformed: operators on both maps, then the distance."""
        student_map, teacher_map = transformed, teacher_map.detach()
        for operator in self._operators:
            student_map, teacher_map = operator(student_map, teacher_map)
        loss: Tensor = self._distance(student_map, teacher_map)
        return loss


def build_pathway(pathway: Pathway, *, student: Stage, teacher: Stage, seed: int) -> PathwayLoss:
    """The pathway with transform weights that depend on the seed, its stages and its transform alone.

    The global random state is left as it was. Raises UnknownMethodError, InvalidConfigError.
    """
    return PathwayLoss(pathway, _transform(pathway, student=student, teacher=teacher, seed=seed))


def build_pathways(
    pathways: Sequence[Pathway], *, student: Sequence[Stage], teacher: Sequence[Stage], seed: int
) -> list[PathwayLoss]:
    """The pathways in order; those that differ in operators and distance alone share one transform.

    A map that two distances compare is transformed once, and the transform learns from both. Raises
    UnknownMethodError, InvalidConfigError.
    """
    transforms = {
        _transform_of(one): _transform(
            one, student=student[one.student_stage], teacher=teacher[one.teacher_stage], seed=seed
        )
        for one in {_transform_of(pathway): pathway for pathway in pathways}.values()
    }
    return [PathwayLoss(pathway, transforms[_transform_of(pathway)]) for pathway in pathways]


def require_transform(chain: str, config: Mapping[str, JsonValue]) -> None:
    """Raise UnknownMethodError or InvalidConfigError unless there is such a chain, with such settings."""
    transform = registry.get(Kind.TRANSFORM, chains.transform_of(chain))
    build_operators(chain, config)
    transform.configured(chains.transform_settings(config))


def require_distance(name: str, config: Mapping[str, JsonValue]) -> None:
    """Raise UnknownMethodError or InvalidConfigError unless there is such a distance, with such settings."""
    registry.get(Kind.DISTANCE, name).configured(config)


def _transform(pathway: Pathway, *, student: Stage, teacher: Stage, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_seed_of(pathway, seed))
        method = registry.get(Kind.TRANSFORM, chains.transform_of(pathway.transform))
        settings = chains.transform_settings(pathway.transform_config)
        made: nn.Module = method.build(student, teacher, config=settings)
    return made


def _transform_of(pathway: Pathway) -> str:
    transform = with_settings(
        chains.transform_of(pathway.transform), chains.transform_settings(pathway.transform_config)
    )
    return f"{pathway.teacher}/{pathway.teacher_stage}-{pathway.student_stage}-{transform}"


def _seed_of(pathway: Pathway, seed: int) -> int:
    """A pathway keeps its start whichever other pathways there are, so pruning others changes nothing."""
    mixed = seed
    for character in _transform_of(pathway):
        mixed = (mixed * 1_000_003 + ord(character)) % (1 << 63)
    return mixed


__all__ = ["PathwayLoss", "build_pathway", "build_pathways", "require_distance", "require_transform"]
