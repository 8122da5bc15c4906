"""Feature pathways: transforms (Kind.TRANSFORM) and distances (Kind.DISTANCE), one per file.

Contracts. A transform is an `nn.Module` class `(student: Stage, teacher: Stage)`; `forward(student_map
(B, Cs, Hs, Ws), teacher_shape (Ct, Ht, Wt))` gives (B, Ct, Ht, Wt). One that changes both maps is a
`two_sided.TwoSided`; one that a search teaches by the meta loss names its `meta_parameters`. A distance is a
function `(student_map, teacher_map) -> 0-dim mean`, both (B, C, H, W) of one spatial size, differentiable in
both: the pathway sees to it that no gradient reaches the teacher. Both take `config` beside where their cards
have settings. Between them both maps go through the operators of the pathway's chain (search/chains.py,
search/operators/).

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
from search.pathways.meta_parameters import load_meta_parameters
from search.pathways.two_sided import TwoSided
from search.problems import SearchProblem
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
        return self.distance(*self.transformed(student_map, teacher_map))

    def transformed(self, student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
        """Both maps before the operators; no gradient reaches the teacher's as it came."""
        teacher_map = teacher_map.detach()
        if isinstance(self.transform, TwoSided):
            return self.transform.both(student_map, teacher_map)
        return self.transform(student_map, tuple(teacher_map.shape[1:])), teacher_map

    def distance(self, transformed: Tensor, teacher_map: Tensor) -> Tensor:
        """The loss, 0-dim, of maps that have been transformed: operators on both, then the distance."""
        for operator in self._operators:
            transformed, teacher_map = operator(transformed, teacher_map)
        loss: Tensor = self._distance(transformed, teacher_map)
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
        of: _transform(one, student=student[one.student_stage], teacher=teacher[one.teacher_stage], seed=seed)
        for of, one in _one_for_each_transform(pathways).items()
    }
    return [PathwayLoss(pathway, transforms[_transform_of(pathway)]) for pathway in pathways]


def _one_for_each_transform(pathways: Sequence[Pathway]) -> dict[str, Pathway]:
    """Of the pathways that share a transform the first that has parameters, all of which have to agree."""
    found: dict[str, Pathway] = {}
    for pathway in pathways:
        kept = found.setdefault(_transform_of(pathway), pathway)
        if kept.parameters is None:
            found[_transform_of(pathway)] = pathway
        elif pathway.parameters not in (None, kept.parameters):
            raise SearchProblem(
                f"pathways {kept.name} and {pathway.name} share a transform, but their parameters differ: "
                "leave out those of one",
                code="pathway_does_not_fit",
            )
    return found


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
    if pathway.parameters is not None:
        load_meta_parameters(made, pathway.parameters, pathway=pathway.name)
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
