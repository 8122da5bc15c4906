"""Trials whose methods cannot be used together are passed over for the nearest that can; none: refused."""

from __future__ import annotations

from typing import Any

import pytest

from search.dimensions import Choices, starting_choices
from search.method_card import Card, Owned
from search.planning.arms import dimensions_of
from search.planning.nearest import nearest_that_work
from search.records import Fail, PreflightResult, RunParameters, StageName
from search.registry import Kind, Method
from search.spec import JobSpec
from tests.search.planning.simulated_job import SimulatedJob, make_spec, preflight_result


def made_up(name: str, kind: Kind, **said: Any) -> dict[str, Any]:
    return Method(kind, name, "Made up.", "tests", lambda: None, Card(**said)).described()


CARDS = {
    card["id"]: card
    for card in (
        made_up("kd", Kind.LOGIT_LOSS),
        made_up("dist", Kind.LOGIT_LOSS, least_batch=8),
        made_up("head", Kind.FEATURE_LOSS, owns=frozenset({Owned.STUDENT_LOGITS, Owned.LAST_MAP})),
        made_up("merged", Kind.FEATURE_LOSS, owns=frozenset({Owned.LAST_MAP})),
        made_up("free", Kind.FEATURE_LOSS),
        made_up("projection", Kind.TRANSFORM),
        made_up("mse", Kind.DISTANCE),
        made_up("gram", Kind.DISTANCE, least_batch=8, ignores_channels=True),
    )
}
PREFLIGHT = preflight_result(cards=CARDS)


def spec_with(space: dict[str, Any], **changes: Any) -> JobSpec:
    return make_spec(search={"space": {"connections": ["last"], "distances": [["mse"]], **space}}, **changes)


def nearest(spec: JobSpec, **chosen: Any) -> Choices | None:
    choices = {**starting_choices(dimensions_of(spec)), **chosen}
    return nearest_that_work(spec, choices, PreflightResult.model_validate(PREFLIGHT))


def changed(spec: JobSpec, **chosen: Any) -> dict[str, Any]:
    """What the nearest choices have other than those chosen."""
    before = {**starting_choices(dimensions_of(spec)), **chosen}
    after = nearest(spec, **chosen)
    assert after is not None
    assert after.keys() == before.keys()
    return {name: value for name, value in after.items() if before[name] != value}


class TestNearest:
    def test_what_works_stays(self) -> None:
        spec = spec_with({"logit_losses": [["kd"], []], "feature_losses": [["free", "merged"], []]})
        assert changed(spec) == {}

    def test_other_logit_losses_come_first_then_other_feature_losses(self) -> None:
        both = {"logit_losses": [["kd"], ["kd", "dist"], []], "feature_losses": [["head"], ["free"], []]}
        assert changed(spec_with(both)) == {"logit_losses": []}
        without_empty = {"logit_losses": [["kd"], ["dist"]], "feature_losses": [["head"], ["free"], []]}
        assert changed(spec_with(without_empty)) == {"feature_losses": ["free"]}

    def test_both_are_changed_where_neither_alone_will_do(self) -> None:
        spec = spec_with(
            {"logit_losses": [["dist"], ["kd"]], "feature_losses": [["head"], ["free"]]},
            training={"batch_size": 4},
        )
        assert changed(spec) == {"logit_losses": ["kd"], "feature_losses": ["free"]}

    def test_other_distances_come_last(self) -> None:
        spec = spec_with({"distances": [["gram"], ["mse"]]}, training={"batch_size": 4})
        assert changed(spec) == {"distances": ["mse"]}
        assert changed(spec_with({"distances": [["gram"], ["mse"]]})) == {}

    def test_distances_of_no_pathway_do_not_count(self) -> None:
        spec = spec_with(
            {"connections": ["none", "last"], "distances": [["gram"]]}, training={"batch_size": 4}
        )
        assert changed(spec) == {}

    def test_what_is_left_still_distils(self) -> None:
        """Without logit losses, which `head` does not stand, something has to teach."""
        spec = spec_with(
            {
                "connections": ["none"],
                "logit_losses": [["kd"], []],
                "feature_losses": [["head", "merged"], ["head"], []],
            }
        )
        assert changed(spec) == {"feature_losses": []}
        assert changed(spec, feature_losses=["head"]) == {"logit_losses": []}

    def test_nothing_works(self) -> None:
        assert nearest(spec_with({"feature_losses": [["head"], ["head", "merged"]]})) is None


class TestPlans:
    @pytest.mark.parametrize("strategy", ["tpe", "random"])
    def test_no_trial_has_methods_that_cannot_be_used_together(self, strategy: str) -> None:
        space = {
            "logit_losses": [["kd"], ["kd", "dist"], []],
            "feature_losses": [["head"], ["merged", "head"], ["free"], []],
        }
        spec = make_spec(
            search={"space": space, "strategy": strategy}, budget={"trials": 12}, training={"batch_size": 4}
        )
        job = SimulatedJob(spec, preflight=PREFLIGHT)
        job.run_to(StageName.TUNING)
        trials = job.of(StageName.SEARCH, "searched")
        assert len(trials) == 12
        seen = set()
        for trial in trials:
            process = RunParameters.model_validate(trial.parameters).process
            logits = tuple(loss.name for loss in process.logit_losses)
            features = tuple(one.loss for one in process.pathways if hasattr(one, "loss"))
            assert features in {("head",), ("free",), ()}
            assert logits in {("kd",), ()}
            assert not ("head" in features and logits)
            seen.add((logits, features))
            assert trial.parameters["choices"]["feature_losses"] == list(features)
        assert len(seen) > 1

    def test_a_space_without_a_choice_that_works_is_refused_after_preflight(self) -> None:
        spec = spec_with({"feature_losses": [["head"]]})
        action = SimulatedJob(spec, preflight=PREFLIGHT).run()
        assert isinstance(action, Fail)
        assert action.code == "methods_do_not_combine"
        assert action.message.startswith("search.space.logit_losses: feature loss 'head' puts another head")

    def test_a_record_from_before_cards_refuses_nothing(self) -> None:
        job = SimulatedJob(spec_with({"feature_losses": [["head"]]}))
        job.run_to(StageName.SEARCH)
