"""Which methods are refused together, or in a job at all, and in which words; by cards, made-up and real."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from typing import Any

import pytest

from search.allowed_choices import cards_of, named_in, passed_over, why_no_choice
from search.catalogue_checks import check_spec, named_methods
from search.combinations import JobFacts, Refusal, facts_of, why_not_together
from search.method_card import Card, MethodConfig, Need, Owned
from search.registry import Kind, Method, load_everything, methods
from search.spec import JobSpec, MethodUse
from tests.search.planning.simulated_job import make_spec

load_everything()
CARDS = {card["id"]: card for card in (method.described() for method in methods())}
CATALOGUE = {
    "methods": list(CARDS.values()),
    "models": ["test_resnet", "test_convnext"],
    "datasets": [{"name": "digits"}],
}


def made_up(name: str, kind: Kind = Kind.FEATURE_LOSS, **said: Any) -> dict[str, Any]:
    """A card as the catalogue holds it."""
    return Method(kind, name, "Made up.", "tests", lambda: None, Card(**said)).described()


HEAD = made_up("head", owns=frozenset({Owned.STUDENT_LOGITS, Owned.LAST_MAP}))
MAP = made_up("map", owns=frozenset({Owned.LAST_MAP}))
EXITS = made_up("exits", teaches_logits=True)
FREE = made_up("free")
KD = made_up("kd", Kind.LOGIT_LOSS)


def refused(*cards: dict[str, Any], **facts: Any) -> Refusal:
    found = why_not_together(cards, JobFacts(**facts))
    assert found is not None
    return found


def accepted(*cards: dict[str, Any], **facts: Any) -> bool:
    return why_not_together(cards, JobFacts(**facts)) is None


def spec_with(space: dict[str, Any], **changes: Any) -> JobSpec:
    return make_spec(search={"space": space}, **changes)


class TestOwners:
    def test_two_of_the_last_map(self) -> None:
        found = refused(MAP, FREE, HEAD)
        assert found.reason == (
            "feature loss 'map' and feature loss 'head' both take the student's last map for themselves"
        )

    def test_the_same_method_twice(self) -> None:
        assert "both take" in refused(MAP, MAP).reason

    @pytest.mark.parametrize("teaching", [KD, EXITS], ids=["a logit loss", "a feature loss on logits"])
    def test_a_loss_on_logits_that_another_gives(self, teaching: dict[str, Any]) -> None:
        for order in ((HEAD, teaching), (teaching, HEAD)):
            found = refused(*order)
            assert "another head in the place of the student's" in found.reason
            assert found.remedy == f"use head without {teaching['name']}"

    def test_what_takes_nothing_from_others_is_accepted(self) -> None:
        assert accepted(HEAD, FREE)
        assert accepted(MAP, KD, EXITS, FREE)
        assert accepted()


class TestJobs:
    def test_a_need_that_the_job_does_not_meet(self) -> None:
        card = made_up("classes", needs=frozenset({Need.LABELS}))
        found = refused(KD, card, unmet=frozenset({Need.LABELS}))
        assert found == Refusal(
            "feature loss 'classes' needs labels, which this job does not have",
            "choose a method without labels, or data with them",
        )
        assert accepted(KD, card)
        assert accepted(KD, unmet=frozenset({Need.LABELS}))

    def test_too_few_images_to_compare(self) -> None:
        card = made_up("relations", least_batch=8)
        assert "needs 8 of them, but only 7 are taken at once" in refused(card, images_at_once=7).reason
        assert accepted(card, images_at_once=8)
        assert accepted(card)

    def test_what_is_kept_of_each_image_under_mixing(self) -> None:
        card = made_up("bank", needs=frozenset({Need.INDICES}))
        found = refused(card, is_mixed=True)
        assert "mixup and CutMix" in found.reason
        assert "mixup_alpha" in found.remedy
        assert accepted(card)
        assert accepted(made_up("classes", needs=frozenset({Need.LABELS})), is_mixed=True)

    def test_a_card_of_an_older_catalogue_is_refused_nowhere(self) -> None:
        everything = JobFacts(frozenset(Need), images_at_once=1, is_mixed=True)
        assert why_not_together([{"id": "mse", "kind": "distance"}], everything) is None

    @pytest.mark.parametrize(
        ("training", "expected"),
        [
            ({}, (64, False)),
            ({"batch_size": 16, "accumulate_parts": 4}, (4, False)),
            ({"mixup_alpha": 0.2}, (64, True)),
            ({"cutmix_alpha": 1.0}, (64, True)),
        ],
    )
    def test_facts_are_read_from_the_spec(self, training: dict[str, Any], expected: tuple[int, bool]) -> None:
        facts = facts_of(make_spec(training=training))
        assert (facts.images_at_once, facts.is_mixed) == expected
        assert facts.unmet == {Need.SECOND_TEACHER, Need.UNLABELLED}


class TestSpaces:
    """Choices that are refused are passed over; a space without another is refused by its field."""

    def test_nothing_is_wrong_with_what_is_usual(self) -> None:
        for spec in (make_spec(), spec_with({"feature_losses": [["rkd", "ic_kd"]]})):
            assert check_spec(spec, CATALOGUE) == []

    def test_a_set_that_no_job_of_this_kind_can_use(self) -> None:
        spec = spec_with({"feature_losses": [["crd"]]}, training={"mixup_alpha": 0.4})
        (fault,) = check_spec(spec, CATALOGUE)
        assert fault.field == "search.space.feature_losses"
        assert fault.message.startswith("feature loss 'crd' keeps what was said of each training image")
        assert fault.remedy.startswith("set training.mixup_alpha")

    def test_another_choice_saves_the_space_and_the_first_is_told_of(self) -> None:
        spec = spec_with({"feature_losses": [["crd"], []]}, training={"mixup_alpha": 0.4})
        assert check_spec(spec, CATALOGUE) == []
        (note,) = passed_over(spec.search.space, CARDS, facts_of(spec))
        assert note.startswith("search.space.feature_losses.0 is passed over: feature loss 'crd'")

    def test_choices_that_do_not_go_together(self) -> None:
        cards = {"feature_loss/head": HEAD, "logit_loss/kd": KD, "logit_loss/dkd": KD}
        facts = JobFacts()
        every = [["kd"], ["dkd", "kd"]]
        clash = spec_with({"logit_losses": every, "feature_losses": [["head"]]}).search.space
        fault = why_no_choice(clash, cards, facts)
        assert fault is not None
        assert fault.field == "search.space.logit_losses"
        assert "'head' puts another head" in fault.message
        assert fault.remedy == "add [] to search.space.logit_losses"
        for saved in (
            {"logit_losses": [*every, []], "feature_losses": [["head"]]},
            {"logit_losses": every, "feature_losses": [["head"], []]},
        ):
            assert why_no_choice(spec_with(saved).search.space, cards, facts) is None

    def test_sets_without_a_partner_are_told_of(self) -> None:
        """What can be used alone, but beside no choice of the others, no trial will use."""
        facts = JobFacts()
        spec = spec_with({"feature_losses": [["simkd"], ["r2kd"]]})
        assert check_spec(spec, CATALOGUE) == []
        (note,) = passed_over(spec.search.space, CARDS, facts)
        assert note.startswith("search.space.feature_losses.0 is passed over: feature loss 'simkd' puts")
        assert note.endswith(
            "'kd' has no logits of the student to teach; add [] to search.space.logit_losses"
        )
        spec = spec_with({"feature_losses": [["simkd"]], "logit_losses": [["kd"], []]})
        (note,) = passed_over(spec.search.space, CARDS, facts)
        assert note.startswith("search.space.logit_losses.0 is passed over")
        assert note.endswith("add [] to search.space.feature_losses")
        spec = spec_with({"feature_losses": [["simkd"], []], "logit_losses": [["kd"], []]})
        assert [*passed_over(spec.search.space, CARDS, facts)] == []

    def test_a_default_that_stands_in_the_way_is_named_by_its_field(self) -> None:
        (fault,) = check_spec(spec_with({"feature_losses": [["simkd"]]}), CATALOGUE)
        assert fault.field == "search.space.logit_losses"
        assert fault.remedy == "add [] to search.space.logit_losses"
        saved = spec_with({"feature_losses": [["simkd"]], "logit_losses": [["kd"], []]})
        assert check_spec(saved, CATALOGUE) == []

    def test_distances_count_where_something_is_connected(self) -> None:
        small = {"batch_size": 4}
        (fault,) = check_spec(spec_with({"distances": [["gram"]]}, training=small), CATALOGUE)
        assert fault.field == "search.space.distances"
        assert "needs 8 of them, but only 4" in fault.message
        for space in (
            {"distances": [["gram"], ["mse"]]},
            {"distances": [["gram"]], "connections": ["last", "none"]},
            {"distances": [["gram"]], "connections": ["none"]},
        ):
            assert check_spec(spec_with(space, training=small), CATALOGUE) == []

    def test_a_large_space_is_checked_at_once(self) -> None:
        """The sets that are alike in what they take are tried once."""
        names = [f"loss_{index}" for index in range(60)]
        losses = {f"logit_loss/{name}": made_up(name, Kind.LOGIT_LOSS) for name in names}
        cards = {**losses, "feature_loss/head": HEAD}
        space = {
            "logit_losses": [[one, two] for one, two in combinations(names, 2)],
            "feature_losses": [["head"]] * 200,
            "transforms": [["projection"]] * 200,
        }
        assert why_no_choice(spec_with(space).search.space, cards, JobFacts()) is not None


class TestMethodsInsideMethods:
    NESTED = MethodUse(name="logit_std", config={"of": "balance_divergence", "of_config": {"of": "dist"}})

    def test_they_are_found_in_the_settings(self) -> None:
        assert named_in([self.NESTED, "logit_std"], Kind.LOGIT_LOSS, CARDS) == [
            "logit_loss/logit_std",
            "logit_loss/balance_divergence",
            "logit_loss/dist",
            "logit_loss/logit_std",
            "logit_loss/kd",
        ]
        chosen = MethodUse(name="logit_std", config={"of": ["dkd", "wsld"]})
        assert named_in([chosen], Kind.LOGIT_LOSS, CARDS)[1:] == ["logit_loss/dkd", "logit_loss/wsld"]

    def test_what_is_inside_counts(self) -> None:
        facts = JobFacts(unmet=frozenset({Need.LABELS}))
        for use, is_refused in (
            ("logit_std", False),
            (MethodUse(name="logit_std", config={"of": "dkd"}), True),
            (self.NESTED, False),
        ):
            found = why_not_together(cards_of([use], Kind.LOGIT_LOSS, CARDS), facts)
            assert (found is not None) == is_refused
        (fault,) = check_spec(
            spec_with({"logit_losses": [[self.NESTED.model_dump()]]}, training={"batch_size": 4}), CATALOGUE
        )
        assert "logit loss 'dist'" in fault.message

    def test_a_method_that_names_itself_ends(self) -> None:
        class Endless(MethodConfig):
            of: str = "endless"

        card = made_up("endless", Kind.LOGIT_LOSS, config=Endless)
        card["config"]["properties"]["of"]["names"] = "logit_loss"
        assert len(named_in(["endless"], Kind.LOGIT_LOSS, {"logit_loss/endless": card})) < 20


def test_a_job_may_use_what_its_spec_names_and_kd() -> None:
    spec = spec_with({"logit_losses": [["logit_std"]], "feature_losses": [["rkd"], []]})
    named = named_methods(spec, CARDS)
    expected = {"logit_loss/kd", "logit_loss/logit_std", "feature_loss/rkd", "distance/mse", "strategy/tpe"}
    assert named >= expected
    assert not any(key.startswith(("model/", "dataset/")) for key in named)


def test_it_loads_without_torch() -> None:
    code = "import sys, search.combinations, search.allowed_choices; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
