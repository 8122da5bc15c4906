"""Which pathways a choice of connections, transform and distances stands for."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
from pydantic import ValidationError

from search import pathway_rules
from search.pathway_rules import (
    MapFacts,
    UnknownConnectionsError,
    absent_stages,
    enumerate_pathways,
    fits,
)
from search.preflight import require_stages
from search.problems import SearchProblem
from search.recipe import Pathway, Stage
from search.spec import JobSpec, Rule, Space

FACTS = MapFacts(
    keeps_channels=frozenset({"identity"}),
    ignores_channels=frozenset({"attention", "gram"}),
    compares_places=frozenset({"attention"}),
)


def stages(*channels: int, first_reduction: float = 2.0) -> list[Stage]:
    last = max(1, len(channels) - 1)
    return [
        Stage(index=index, channels=width, reduction=first_reduction * 2**index, depth=index / last)
        for index, width in enumerate(channels)
    ]


def pairs(
    connections: str | list[list[int]], teacher: list[Stage], student: list[Stage]
) -> list[tuple[int, int]]:
    return [
        (pathway.teacher_stage, pathway.student_stage)
        for pathway in enumerate_pathways(connections, ["projection"], ["mse"], teacher, student, FACTS)
    ]


class TestConnections:
    def test_same_depth_is_one_to_one_where_counts_agree(self) -> None:
        assert pairs("same_depth", stages(8, 16, 32), stages(4, 8, 16)) == [(0, 0), (1, 1), (2, 2)]

    def test_same_depth_takes_the_nearest_teacher_stage(self) -> None:
        assert pairs("same_depth", stages(8, 8, 8, 8, 8), stages(4, 4, 4)) == [(0, 0), (2, 1), (4, 2)]

    def test_same_depth_gives_every_student_stage_a_teacher_even_when_the_teacher_has_fewer(self) -> None:
        assert pairs("same_depth", stages(8, 8), stages(4, 4, 4, 4)) == [(0, 0), (0, 1), (1, 2), (1, 3)]

    def test_same_depth_prefers_the_shallower_of_two_equally_near_stages(self) -> None:
        assert pairs("same_depth", stages(8, 8), stages(4, 4, 4)) == [(0, 0), (0, 1), (1, 2)]

    def test_last_connects_the_last_stages_only(self) -> None:
        assert pairs("last", stages(8, 16, 32), stages(4, 8)) == [(2, 1)]

    def test_same_or_deeper_gives_distpros_ten_pathways_on_four_stages(self) -> None:
        found = pairs("same_or_deeper", stages(8, 8, 8, 8), stages(4, 4, 4, 4))
        assert len(found) == 10
        assert all(student >= teacher for teacher, student in found)

    def test_same_or_deeper_compares_relative_depths_when_counts_differ(self) -> None:
        found = pairs("same_or_deeper", stages(8, 8, 8, 8, 8), stages(4, 4, 4))
        assert found == [(0, 0), (0, 1), (1, 1), (2, 1), *((index, 2) for index in range(5))]

    def test_all_connects_everything(self) -> None:
        assert len(pairs("all", stages(8, 8, 8), stages(4, 4, 4, 4))) == 12

    def test_none_connects_nothing(self) -> None:
        assert pairs("none", stages(8, 8), stages(8, 8)) == []

    def test_every_choice_of_the_spec_has_a_rule(self) -> None:
        assert set(get_args(Rule)) == set(pathway_rules.CONNECTIONS)

    def test_an_unknown_rule_is_refused_by_name(self) -> None:
        with pytest.raises(UnknownConnectionsError, match=r"'nearest'.*same_depth"):
            enumerate_pathways("nearest", ["projection"], ["mse"], stages(8), stages(8), FACTS)


class TestListedPairs:
    def test_each_pair_is_a_connection_once_in_the_order_given(self) -> None:
        found = pairs([[2, 1], [0, 0], [2, 1]], stages(8, 16, 32), stages(4, 8))
        assert found == [(2, 1), (0, 0)]

    def test_every_pair_gets_every_transform_and_distance(self) -> None:
        found = enumerate_pathways(
            [[1, 0], [0, 1]], ["linear", "projection"], ["mse", "gram"], stages(8, 16), stages(4, 8), FACTS
        )
        assert len(found) == 8
        assert len({pathway.name for pathway in found}) == 8

    def test_pairs_of_stages_that_are_not_there_are_left_out_and_told_of(self) -> None:
        teacher, student = stages(8, 16, 32), stages(4, 8)
        listed = [[3, 0], [2, 1], [0, 2], [9, 7]]
        assert pairs(listed, teacher, student) == [(2, 1)]
        said = absent_stages(listed, teacher, student)
        assert said == (
            "stage 3 of the teacher, which has stages 0 to 2; stage 9 of the teacher, which has stages 0 to "
            "2; stage 2 of the student, which has stages 0 to 1; stage 7 of the student, which has stages 0 "
            "to 1"
        )
        assert absent_stages([[2, 1]], teacher, student) is None
        assert absent_stages("same_depth", teacher, []) is None
        assert absent_stages([[0, 0]], teacher, []) == "stage 0 of the student, which has no stages"

    def test_every_rule_can_be_written_as_a_list(self) -> None:
        teacher, student = stages(8, 8, 8, 8), stages(4, 4, 4)
        for rule in pathway_rules.CONNECTIONS:
            by_rule = pairs(rule, teacher, student)
            assert pairs([list(pair) for pair in by_rule], teacher, student) == by_rule

    def test_a_spec_takes_them_and_refuses_what_is_no_pair(self) -> None:
        assert Space(connections=["last", [[0, 0], [1, 2]]]).connections[1] == [[0, 0], [1, 2]]
        for wrong in ([[0]], [[0, 1, 2]], [[-1, 0]], [["last", 0]], []):
            with pytest.raises(ValidationError):
                Space(connections=[wrong])  # type: ignore[list-item]

    def test_preflight_refuses_stages_that_are_not_there_and_says_where_and_what_to_do(self) -> None:
        spec = JobSpec(
            teachers=[{"model": "test_resnet"}],  # type: ignore[list-item]
            student={"model": "test_vit"},  # type: ignore[arg-type]
            search={"space": {"connections": ["last", [[1, 1]], [[2, 1], [3, 0]]]}},  # type: ignore[arg-type]
        )
        with pytest.raises(SearchProblem, match=r"connections\.2 names stage 3 of the teacher") as caught:
            require_stages(spec, teacher=stages(8, 16, 32), student=stages(4, 8))
        assert caught.value.code == "pathway_does_not_fit"
        assert "0 to 2" in str(caught.value)
        require_stages(spec, teacher=stages(8, 16, 32, 64), student=stages(4, 8))


class TestPathways:
    def test_every_connection_gets_one_pathway_per_transform_and_distance_and_no_name_twice(self) -> None:
        transforms, distances = ["gated", "projection", "gated"], ["mse", "hcl", "mse"]
        found = enumerate_pathways("all", transforms, distances, stages(8, 16), stages(4, 8), FACTS)
        assert len(found) == 2 * 2 * 2 * 2
        assert len({pathway.name for pathway in found}) == len(found)

    def test_identity_leaves_out_stages_of_different_width_unless_the_distance_ignores_channels(self) -> None:
        found = enumerate_pathways(
            "same_depth", ["identity"], ["mse", "attention"], stages(8, 16), stages(8, 12), FACTS
        )
        assert [(p.student_stage, p.distance) for p in found] == [
            (0, "mse"),
            (0, "attention"),
            (1, "attention"),
        ]

    def test_the_reason_names_both_widths_and_the_remedy(self) -> None:
        pathway = Pathway(teacher_stage=0, student_stage=0, transform="identity", distance="hcl")
        reason = fits(pathway, stages(8)[0], stages(4)[0], FACTS)
        assert reason is not None
        assert "4 channels" in reason
        assert "8" in reason
        assert "attention" in reason

    def test_attention_is_left_out_where_the_teachers_map_has_one_pixel(self) -> None:
        teacher = stages(8, 16, 32, first_reduction=8)
        found = enumerate_pathways(
            "all", ["projection"], ["mse", "attention"], teacher, teacher, FACTS, input_size=32
        )
        assert {p.teacher_stage for p in found if p.distance == "attention"} == {0, 1}
        assert {p.teacher_stage for p in found if p.distance == "mse"} == {0, 1, 2}
        pathway = Pathway(teacher_stage=2, student_stage=0, transform="projection", distance="attention")
        assert "one pixel" in (fits(pathway, teacher[2], teacher[0], FACTS, input_size=32) or "")
        assert fits(pathway, teacher[2], teacher[0], FACTS, input_size=64) is None

    def test_a_single_stage_model_works(self) -> None:
        assert pairs("same_or_deeper", stages(8), stages(8)) == [(0, 0)]


def test_the_rules_load_without_torch() -> None:
    code = "import sys, search.pathway_rules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
