"""What a spec without labels means, what it refuses, and which processes can be trained without labels."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from search import registry
from search.allowed_choices import passed_over
from search.catalogue_checks import check_spec, explain_validation, requirements
from search.combinations import facts_of
from search.label_free import JudgedBy, judged_by, meta_loss_of, why_labels
from search.method_card import Card, Need
from search.planning.arms import kd, plain_kd
from search.recipe import FeatureLoss, LogitLoss, Pathway, Process, TemperatureRule
from search.registry import Kind, Method, load_everything, methods
from search.spec import ARMS, JobSpec

load_everything()
NEEDING = [
    method
    for method in methods()
    if Need.LABELS in method.card.needs and method.kind in (Kind.LOGIT_LOSS, Kind.FEATURE_LOSS)
]


def spec_of(space: dict[str, Any] | None = None, *, meta_loss: str = "auto", **parts: Any) -> JobSpec:
    document: dict[str, Any] = {
        "teachers": [{"model": "test_resnet", "weights": "teacher.safetensors"}],
        "student": {"model": "resnet8_w8"},
        "data": {"labels": "none"},
        "search": {"space": space or {}, "process": {"meta_loss": meta_loss}},
    }
    return JobSpec.model_validate({**document, **parts})


def catalogue() -> dict[str, Any]:
    return {
        "methods": [method.described() for method in methods()],
        "models": ["test_resnet", "resnet8_w8"],
        "datasets": [{"name": "digits"}],
    }


class TestSpec:
    def test_labels_are_given_unless_the_spec_says_otherwise(self) -> None:
        old = JobSpec.model_validate({"teachers": [{"model": "a"}], "student": {"model": "b"}})
        assert old.data.is_labelled
        assert old.proof.arms == list(ARMS)
        assert judged_by(old) is JudgedBy.ACCURACY
        assert meta_loss_of(old) == "cross_entropy"

    def test_there_is_no_student_alone(self) -> None:
        spec = spec_of()
        assert spec.proof.arms == [arm for arm in ARMS if arm != "student_alone"]
        assert JobSpec.model_validate(spec.model_dump()) == spec
        assert JobSpec.model_validate_json(spec.model_dump_json()) == spec

    @pytest.mark.parametrize(
        ("space", "meta_loss", "figure"),
        [
            ({}, "teacher_logits", JudgedBy.TEACHER_AGREEMENT),
            ({"logit_losses": [["kd"], ["dist"]]}, "teacher_logits", JudgedBy.TEACHER_AGREEMENT),
            ({"logit_losses": [["kd"], []]}, "teacher_embeddings", JudgedBy.NEIGHBOUR_AGREEMENT),
            (
                {"logit_losses": [[]], "feature_losses": [["tintem"]]},
                "teacher_embeddings",
                JudgedBy.NEIGHBOUR_AGREEMENT,
            ),
        ],
    )
    def test_the_space_says_what_judges(
        self, space: dict[str, Any], meta_loss: str, figure: JudgedBy
    ) -> None:
        assert meta_loss_of(spec_of(space)) == meta_loss
        assert judged_by(spec_of(space)) is figure

    def test_the_spec_may_say_so_itself(self) -> None:
        spec = spec_of(meta_loss="teacher_embeddings")
        assert judged_by(spec) is JudgedBy.NEIGHBOUR_AGREEMENT
        labelled = spec_of(meta_loss="teacher_logits", data={})
        assert meta_loss_of(labelled) == "teacher_logits"
        assert judged_by(labelled) is JudgedBy.ACCURACY

    @pytest.mark.parametrize(
        ("parts", "field", "message", "remedy"),
        [
            ({"teachers": [{"model": "test_resnet"}]}, "data", "needs labels", "weights file"),
            (
                {"proof": {"arms": ["student_alone", "tuned_kd", "searched"]}},
                "proof",
                "no student_alone",
                "leave",
            ),
            ({"proof": {"arms": ["searched"]}}, "proof", "must contain tuned_kd", "correct"),
            (
                {"search": {"process": {"meta_loss": "cross_entropy"}}},
                "search",
                "data.labels is `none`",
                "use `auto`",
            ),
            ({"data": {"out_of_distribution": "flowers"}}, "data", "without labels", "leave it out"),
        ],
    )
    def test_what_needs_labels_is_refused(
        self, parts: dict[str, Any], field: str, message: str, remedy: str
    ) -> None:
        with pytest.raises(ValidationError) as caught:
            spec_of(**parts)
        (fault,) = explain_validation(caught.value)
        assert fault.field == field
        assert message in fault.message
        assert remedy in fault.remedy


class TestCatalogue:
    @pytest.mark.parametrize("method", NEEDING, ids=lambda method: method.name)
    def test_a_method_that_needs_labels_is_passed_over_and_refused_alone(self, method: Method) -> None:
        field = f"{method.kind.value}es"
        other = ["kd"] if method.kind is Kind.LOGIT_LOSS else []
        alone = {"logit_losses": [[]], field: [[method.name]]}
        beside = {"logit_losses": [["kd"], []], field: [other, [method.name]]}
        (fault,) = check_spec(spec_of(alone), catalogue())
        assert fault.field == f"search.space.{field}"
        assert f"{method.name!r} needs labels" in fault.message
        assert check_spec(spec_of(beside), catalogue()) == []
        cards = {one["id"]: one for one in catalogue()["methods"]}
        spec = spec_of(beside)
        (note,) = passed_over(spec.search.space, cards, facts_of(spec))
        assert note.startswith(f"search.space.{field}.1 is passed over")
        assert f"{method.name!r} needs labels" in note
        assert check_spec(spec_of(alone, data={}), catalogue()) == []

    def test_a_temperature_rule_that_needs_them_is_refused_beside_others(self) -> None:
        space = {"temperature_rules": ["learned", "dts"]}
        (fault,) = check_spec(spec_of(space), catalogue())
        assert fault.field == "search.space.temperature_rules.1"
        assert fault.message == "temperature rule 'dts' needs labels, and data.labels is `none`"
        assert check_spec(spec_of(space, data={}), catalogue()) == []

    def test_methods_without_that_need_are_not(self) -> None:
        space = {"logit_losses": [["kd", "dist"]], "feature_losses": [["tintem", "rkd"]]}
        assert check_spec(spec_of(space), catalogue()) == []

    def test_a_worker_needs_the_other_data_set_too(self) -> None:
        spec = spec_of(data={"labels": "none", "out_of_distribution": "flowers"})
        assert {"dataset:digits", "dataset:flowers"} <= set(requirements(spec))
        (fault,) = check_spec(spec, catalogue())
        assert fault.field == "data.out_of_distribution"


class TestProcess:
    def test_cross_entropy_needs_labels_at_any_moment(self) -> None:
        bare = kd(temperature=4.0)
        assert why_labels(bare) is None
        assert why_labels(plain_kd(is_labelled=False)) is None
        late = bare.points[0].model_copy(update={"progress": 1.0, "cross_entropy_weight": 0.1})
        for process in (plain_kd(), bare.model_copy(update={"points": [*bare.points, late]})):
            assert "cross-entropy" in (why_labels(process) or "")

    def test_a_method_on_any_place_needs_them(self) -> None:
        bare = kd(temperature=4.0)
        with_dkd = bare.model_copy(update={"logit_losses": [LogitLoss(name="dkd")]})
        with_ega = bare.model_copy(update={"pathways": [FeatureLoss(loss="tintem"), FeatureLoss(loss="ega")]})
        for process, name in ((with_dkd, "dkd"), (with_ega, "ega")):
            assert f"{name!r} needs labels" in (why_labels(process) or "")
        within = LogitLoss(name="logit_std", config={"of": "dkd"})
        ruled = LogitLoss(name="kd", temperature_rule=TemperatureRule(name="dts"))
        for loss, name in ((within, "logit loss 'dkd'"), (ruled, "temperature rule 'dts'")):
            reason = why_labels(bare.model_copy(update={"logit_losses": [loss]}))
            assert reason == f"{name} needs labels"
        plain = LogitLoss(name="logit_std", temperature_rule=TemperatureRule(name="learned"))
        assert why_labels(bare.model_copy(update={"logit_losses": [plain]})) is None
        unknown = bare.model_copy(update={"logit_losses": [LogitLoss(name="a_plug_in")]})
        assert why_labels(Process.model_validate(unknown.model_dump())) is None

    def test_an_operator_of_a_chain_needs_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """None of ours does, so one is registered for this test."""
        card = Card(needs=frozenset({Need.LABELS}))
        method = Method(Kind.OPERATOR, "by_class", "Made up.", "tests", lambda: None, card)
        monkeypatch.setitem(registry._methods, (Kind.OPERATOR, "by_class"), method)
        chain = Pathway(teacher_stage=0, student_stage=0, transform="identity+by_class", distance="mse")
        process = kd(temperature=4.0).model_copy(update={"pathways": [chain]})
        assert why_labels(process) == "operator 'by_class' needs labels"
