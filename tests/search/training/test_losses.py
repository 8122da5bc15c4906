"""The losses of a process as one vector: what is computed, and how often."""

from __future__ import annotations

import pytest
import torch

from search.pathways import PathwayLoss
from search.recipe import Pathway, Process, Stage
from search.training.losses import DistillationLosses
from tests.search.pathways.maps import normal, stage

DISTANCES = ("mse", "hcl", "attention")
STUDENT, TEACHER = stage(8), stage(12)


def losses() -> DistillationLosses:
    """Three distances of one projection, and one of another transform."""
    asked = [("projection", distance) for distance in DISTANCES] + [("linear", "mse")]
    pathways = [
        Pathway(teacher_stage=0, student_stage=0, transform=transform, distance=distance)
        for transform, distance in asked
    ]
    process = Process.model_validate(
        {
            "pathways": [pathway.model_dump() for pathway in pathways],
            "points": [{"progress": 0.0, "pathway_weights": [1.0] * len(pathways)}],
            "unit_scaled": False,
        }
    )
    return DistillationLosses(process, teacher=[TEACHER], student=[STUDENT], seed=0).double()


def maps(of: Stage, *, seed: int) -> dict[int, torch.Tensor]:
    return {0: normal(4, of.channels, 8, 8, seed=seed)}


@pytest.mark.parametrize("active", [None, (0, 1, 2, 3), (1, 2), (0, 3), (2,)], ids=str)
def test_a_map_is_transformed_once_for_all_active_distances(active: tuple[int, ...] | None) -> None:
    own = losses()
    calls: list[torch.nn.Module] = []
    parts = [part for part in own.pathways if isinstance(part, PathwayLoss)]
    for transform in {part.transform for part in parts}:
        transform.register_forward_hook(lambda module, *_: calls.append(module))
    student, teacher = maps(STUDENT, seed=0), maps(TEACHER, seed=1)
    found = own.pathway_losses(student, teacher, active)
    used = [parts[index] for index in (active or range(len(parts)))]
    assert len(calls) == len({part.transform for part in used})
    # The simple twin transforms the map for each pathway anew.
    twin = torch.stack([part(student[0], teacher[0]) for part in used])
    assert torch.equal(found, twin)


def test_the_shared_transform_learns_from_all_its_distances() -> None:
    own = losses()
    student, teacher = maps(STUDENT, seed=0), maps(TEACHER, seed=1)
    weight = next(own.pathways[0].parameters())
    (together,) = torch.autograd.grad(own.pathway_losses(student, teacher, (0, 1, 2)).sum(), weight)
    alone = [
        torch.autograd.grad(own.pathway_losses(student, teacher, (i,)).sum(), weight)[0] for i in range(3)
    ]
    torch.testing.assert_close(together, sum(alone), rtol=1e-12, atol=1e-15)
    assert sum(value.numel() for value in own.parameters()) == sum(
        value.numel() for index in (0, 3) for value in own.pathways[index].parameters()
    )


def test_a_state_that_was_saved_keeps_the_transform_shared() -> None:
    own, other = losses(), losses()
    with torch.no_grad():
        next(own.parameters()).add_(1.0)
    other.load_state_dict(own.state_dict())
    student, teacher = maps(STUDENT, seed=0), maps(TEACHER, seed=1)
    assert torch.equal(*(one.pathway_losses(student, teacher) for one in (own, other)))
    first, second = (part for part in list(other.pathways)[:2])
    assert next(first.parameters()) is next(second.parameters())
