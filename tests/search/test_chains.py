"""Chains as names: their parts, whose settings are whose, and which pathways they make sense in."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from search.chains import (
    misplaced_settings,
    operator_settings,
    operators_of,
    parts_of,
    transform_of,
    transform_settings,
)
from search.pathway_rules import MapFacts, enumerate_pathways, fits
from search.recipe import Pathway, Point, Process, Stage
from search.registry import Kind, load_everything, methods

load_everything()

FACTS = MapFacts.of({card["id"]: card for card in (method.described() for method in methods())})
CHAIN = "gated+channel_attention+max_pool2"
CONFIG = {"width_ratio": 0.5, "channel_attention.temperature": 2.0}


def stage(channels: int, *, reduction: float = 4.0) -> Stage:
    return Stage(index=0, channels=channels, reduction=reduction, depth=0)


def pathway(transform: str, distance: str = "mse", **settings: object) -> Pathway:
    return Pathway.model_validate(
        {"teacher_stage": 0, "student_stage": 0, "transform": transform, "distance": distance, **settings}
    )


def test_a_chain_is_a_transform_and_operators_in_order() -> None:
    assert (transform_of(CHAIN), operators_of(CHAIN)) == ("gated", ["channel_attention", "max_pool2"])
    assert (transform_of("gated"), operators_of("gated")) == ("gated", [])
    assert parts_of("gated+max_pool2") == [(Kind.TRANSFORM, "gated"), (Kind.OPERATOR, "max_pool2")]


def test_each_part_has_its_own_settings() -> None:
    assert transform_settings(CONFIG) == {"width_ratio": 0.5}
    assert operator_settings(CONFIG, "channel_attention") == {"temperature": 2.0}
    assert operator_settings(CONFIG, "max_pool2") == {}
    assert misplaced_settings(CHAIN, [*CONFIG]) == []
    assert misplaced_settings("gated+max_pool2", [*CONFIG]) == ["channel_attention.temperature"]


def test_they_need_no_torch() -> None:
    code = "import sys, search.chains, search.pathway_rules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


class TestWhichFit:
    def test_operators_of_a_transform_that_keeps_channels_need_equal_ones_where_the_distance_does(
        self,
    ) -> None:
        chain = "identity+l2_channels"
        assert fits(pathway(chain), stage(8), stage(8), FACTS) is None
        assert "'identity+l2_channels' keeps" in str(fits(pathway(chain), stage(8), stage(4), FACTS))
        assert fits(pathway(chain, "gram"), stage(8), stage(4), FACTS) is None
        assert fits(pathway("projection+l2_channels"), stage(8), stage(4), FACTS) is None

    def test_channels_become_places_only_where_both_maps_have_equally_many(self) -> None:
        chain = "identity+max_pool2+channel_vectors"
        assert fits(pathway(chain, "gram"), stage(8), stage(8), FACTS) is None
        why = str(fits(pathway(chain, "gram"), stage(8), stage(4), FACTS))
        assert "but operator 'channel_vectors' compares them" in why
        assert fits(pathway("linear+channel_vectors", "gram"), stage(8), stage(4), FACTS) is None

    @pytest.mark.parametrize(
        ("operators", "reduction", "reason"),
        [
            ("max_pool2", 4.0, None),
            ("max_pool2", 16.0, "has one pixel after operator 'max_pool2'"),
            ("max_pool4+max_pool2", 4.0, "has one pixel after operator 'max_pool2'"),
            ("image_vectors", 4.0, "has one pixel after operator 'image_vectors'"),
            ("local2", 4.0, None),
            ("local4+max_pool4", 4.0, "has one pixel after operator 'max_pool4'"),
            ("l2_channels", 32.0, "has one pixel;"),
            ("local2", 32.0, "has one pixel;"),
            ("channel_vectors", 32.0, None),
            ("image_vectors+channel_vectors", 4.0, None),
        ],
    )
    def test_a_distance_of_places_needs_more_than_one_after_the_operators(
        self, operators: str, reduction: float, reason: str | None
    ) -> None:
        one = pathway(f"identity+{operators}", "attention")
        why = fits(one, stage(8, reduction=reduction), stage(8), FACTS, input_size=32)
        assert why is None if reason is None else reason in str(why)
        assert fits(pathway(f"identity+{operators}"), stage(8), stage(8), FACTS, input_size=32) is None

    def test_methods_with_settings_are_pathways_of_their_own(self) -> None:
        found = enumerate_pathways(
            "last",
            ["gated", ("gated", {"width_ratio": 0.5}), ("gated", {}), ("gated+max_pool2", {})],
            ["mse", ("kl", {"temperature": 2.0})],
            [stage(8)],
            [stage(4)],
            FACTS,
        )
        assert [one.name for one in found] == [
            f"t0-s0/{transform}/{distance}"
            for transform in ("gated", "gated(width_ratio=0.5)", "gated+max_pool2")
            for distance in ("mse", "kl(temperature=2.0)")
        ]


class TestRecipes:
    def process(self, *pathways: Pathway) -> Process:
        return Process(pathways=pathways, points=[Point(progress=0.0, pathway_weights=[1.0] * len(pathways))])

    def test_chains_and_settings_travel_as_json(self) -> None:
        process = self.process(
            pathway(CHAIN, "hcl", transform_config=CONFIG, distance_config={"finest_grid": 2}),
            pathway(CHAIN, "hcl"),
        )
        again = Process.model_validate_json(process.model_dump_json())
        assert again == process
        assert again.pathways[0].name == (
            f"t0-s0/{CHAIN}(channel_attention.temperature=2.0, width_ratio=0.5)/hcl(finest_grid=2)"
        )

    def test_what_was_written_before_there_were_settings_means_the_same(self) -> None:
        old = {"teacher_stage": 0, "student_stage": 0, "transform": "gated", "distance": "hcl", "scale": 2.0}
        found = Pathway.model_validate(old)
        assert found.name == "t0-s0/gated/hcl"
        assert (found.transform_config, found.distance_config) == ({}, {})

    def test_equal_settings_are_one_pathway(self) -> None:
        with pytest.raises(ValidationError, match="with the same settings"):
            self.process(pathway("gated", transform_config=CONFIG), pathway("gated", transform_config=CONFIG))
