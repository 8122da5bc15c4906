"""Chains in pathways: equal maps cost nothing, transforms are shared, what is wrong is said, runs repeat."""

from __future__ import annotations

import pytest
import torch

from search.pathways import PathwayLoss, build_pathway, build_pathways
from search.problems import SearchProblem
from search.recipe import Pathway, Point, Process
from search.records import Learning
from search.registry import Kind, get, methods
from search.spec import Training
from search.training.losses import require_fitting
from tests.search.operators.chains import OPERATORS, random_chains
from tests.search.pathways.maps import normal, stage
from tests.search.training.runs import assert_resumes_bitwise, finished, make_run, weights

CHAINS = [*(f"identity+{name}" for name in OPERATORS), *random_chains(12, seed=1)]
DISTANCES = [method.name for method in methods(Kind.DISTANCE)]
TRAINING = Training(optimizer="sgd", learning_rate=0.05, batch_size=16, report_every_steps=1)


def pathway(transform: str, distance: str = "mse", **settings: object) -> Pathway:
    return Pathway.model_validate(
        {"teacher_stage": 0, "student_stage": 0, "transform": transform, "distance": distance, **settings}
    )


def built(one: Pathway, *, channels: int = 6, width: int | None = None) -> PathwayLoss:
    return build_pathway(one, student=stage(channels), teacher=stage(width or channels), seed=0).double()


@pytest.mark.parametrize("distance", DISTANCES)
def test_equal_maps_are_at_distance_zero_through_every_chain(distance: str) -> None:
    teacher, other = normal(5, 6, 8, 8, seed=0), normal(5, 6, 8, 8, seed=1).relu()
    for chain in CHAINS:
        loss = built(pathway(chain, distance))
        for feature_map in (teacher, other):
            assert abs(float(loss(feature_map, feature_map.clone()))) < 1e-12, chain
        torch.manual_seed(0)
        found = loss(teacher, other)
        assert torch.isfinite(found), chain
        assert float(found) >= 0, chain


def test_no_gradient_reaches_the_teacher_through_a_chain() -> None:
    for chain in CHAINS:
        student, teacher = (normal(4, 6, 8, 8, seed=seed).requires_grad_() for seed in (0, 1))
        loss = built(pathway(chain))(student, teacher)
        if loss.requires_grad:
            loss.backward()
        assert teacher.grad is None, chain


def test_operators_are_done_to_the_transformed_map_and_to_the_teachers_in_order() -> None:
    loss = built(pathway("projection+max_pool2+l2_channels"), channels=3, width=6)
    student, teacher = normal(4, 3, 8, 8, seed=0), normal(4, 6, 8, 8, seed=1)
    maps = loss.transformed(student, teacher)
    for name in ("max_pool2", "l2_channels"):
        maps = get(Kind.OPERATOR, name).bound()(*maps)
    assert maps[0].shape == (4, 6, 4, 4)
    assert torch.equal(loss(student, teacher), get(Kind.DISTANCE, "mse").bound()(*maps))


def test_channel_wise_distillation_is_a_chain() -> None:
    """The divergence of each channel's softmax over places, Shu et al. 2021, up to a constant."""
    loss = built(pathway("identity+channel_vectors", "kl"))
    student, teacher = normal(4, 6, 5, 5, seed=0), normal(4, 6, 5, 5, seed=1)

    def published(one: torch.Tensor) -> float:
        log_s, log_t = (values.flatten(2).log_softmax(dim=2) for values in (one, teacher))
        return float((log_t.exp() * (log_t - log_s)).sum(dim=2).mean())

    ratio = float(loss(2 * student, teacher)) / float(loss(student, teacher))
    assert ratio == pytest.approx(published(2 * student) / published(student), rel=1e-12)


class TestSharing:
    def parts(self, *pathways: Pathway) -> list[PathwayLoss]:
        return build_pathways(pathways, student=[stage(8)], teacher=[stage(12)], seed=4)

    def test_chains_of_one_transform_share_it_and_its_start(self) -> None:
        plain, pooled, other = self.parts(
            pathway("projection"), pathway("projection+max_pool2", "kl"), pathway("linear+max_pool2")
        )
        assert plain.transform is pooled.transform
        assert plain.transform is not other.transform
        (alone,) = self.parts(pathway("projection+random_mask"))
        assert torch.equal(next(alone.parameters()), next(plain.parameters()))

    def test_settings_of_the_transform_make_another_and_those_of_operators_do_not(self) -> None:
        narrow = {"width_ratio": 0.5}
        mask = {"random_mask.ratio": 0.2}
        usual, small, masked = self.parts(
            pathway("gated"),
            pathway("gated", transform_config=narrow),
            pathway("gated+random_mask", transform_config=mask),
        )
        assert usual.transform is masked.transform
        assert usual.transform is not small.transform
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in usual.parameters())

    @pytest.mark.parametrize(
        "name", [method.name for method in methods(Kind.TRANSFORM) if "width_ratio" in method.card.ranges()]
    )
    @pytest.mark.parametrize("ratio", [0.25, 2.0])
    def test_widths_follow_the_setting_and_shapes_do_not(self, name: str, ratio: float) -> None:
        (usual, other) = self.parts(pathway(name), pathway(name, transform_config={"width_ratio": ratio}))
        counts = [sum(p.numel() for p in one.parameters()) for one in (usual, other)]
        assert (counts[1] > counts[0]) == (ratio > 1)
        student, teacher = normal(2, 8, 6, 6, seed=0).float(), normal(2, 12, 3, 3, seed=1).float()
        assert other.transformed(student, teacher)[0].shape == teacher.shape


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"transform": "projection+max_pol2"}, "unknown operator 'max_pol2'"),
        ({"transform": "projektion+max_pool2"}, "unknown transform 'projektion'"),
        ({"transform": "gated", "transform_config": {"width": 0.5}}, "width"),
        ({"transform": "gated+max_pool2", "transform_config": {"random_mask.ratio": 0.5}}, "does not have"),
        ({"transform": "gated", "distance_config": {"finest_grid": 2}}, "finest_grid"),
        ({"transform": "gated", "distance": "hcl", "distance_config": {"finest_grid": 3}}, "finest_grid"),
    ],
)
def test_a_process_that_cannot_be_replayed_says_why(settings: dict[str, object], words: str) -> None:
    one = Pathway.model_validate({"teacher_stage": 0, "student_stage": 0, "distance": "mse", **settings})
    process = Process(pathways=[one], points=[Point(progress=0.0, pathway_weights=[1.0])])
    with pytest.raises(SearchProblem, match=words) as caught:
        require_fitting(process, teacher=[stage(8)], student=[stage(8)])
    assert caught.value.code == "unknown_method"


def process(*pathways: Pathway) -> Process:
    return Process(pathways=pathways, points=[Point(progress=0.0, pathway_weights=[0.5] * len(pathways))])


MASKED = process(
    pathway("projection+random_mask"),
    pathway(
        "projection+random_mask+channel_attention", "pearson", transform_config={"random_mask.ratio": 0.3}
    ),
)


@pytest.mark.parametrize("at", [1, 4])
def test_a_search_with_masks_continues_bitwise(at: int) -> None:
    assert_resumes_bitwise(
        TRAINING, at=at, process=MASKED, learn=Learning(learning_rate=0.1, update_every_steps=2)
    )


def test_masks_are_drawn_anew_at_every_step_and_alike_in_every_run() -> None:
    one, again, other = (make_run(TRAINING, process=MASKED, seed=seed) for seed in (5, 5, 6))
    rows = [finished(run) for run in (one, again)]
    finished(other)
    assert rows[0] == rows[1]
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(one).items())
    assert any(not torch.equal(value, weights(other)[name]) for name, value in weights(one).items())
