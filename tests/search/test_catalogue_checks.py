"""What is wrong with a spec is said with its field, a message and a remedy; and who can serve it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from search.catalogue_checks import SpecFault, check_spec, explain_validation, offers, requirements
from search.registry import Kind
from search.spec import JobSpec
from search.spec_faults import SHOWN_INPUT_CHARACTERS, did_you_mean
from tests.search.planning.simulated_job import make_spec

CATALOGUE: dict[str, Any] = {
    "methods": [
        {"id": "strategy/tpe", "kind": "strategy"},
        {"id": "random", "kind": "strategy"},
        {"id": "transform/projection", "kind": "transform", "name": "projection"},
        {"id": "mse", "kind": "distance"},
        {"id": "attention", "kind": "distance"},
        {"id": "kd", "kind": "logit_loss"},
        {"id": "softplus", "kind": "normalisation"},
        {"id": "exact", "kind": "hypergradient"},
        {"id": "shift", "kind": "augmentation"},
    ],
    "models": ["resnet18", "test_resnet", {"name": "test_convnext"}],
    "datasets": [{"name": "digits", "classes": 10}],
}


OPERATORS = ("channel_attention", "max_pool2")


def faults(document: str | dict[str, Any], model: type[BaseModel] = JobSpec) -> list[SpecFault]:
    validate = model.model_validate_json if isinstance(document, str) else model.model_validate
    with pytest.raises(ValidationError) as caught:
        validate(document)
    return explain_validation(caught.value, model)


def fault(**changes: Any) -> SpecFault:
    """The only fault of an otherwise good spec."""
    document = {"teachers": [{"model": "test_resnet"}], "student": {"model": "test_convnext"}, **changes}
    (found,) = faults(document)
    return found


def test_it_can_be_imported_by_a_client() -> None:
    code = (
        "import sys, search.catalogue_checks;"
        "print(sorted({'torch', 'optuna', 'scipy', 'numpy', 'ray', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


class TestCatalogue:
    def test_a_spec_that_can_be_served(self) -> None:
        assert check_spec(make_spec(), CATALOGUE) == []
        assert set(requirements(make_spec())) <= offers(CATALOGUE)

    @pytest.mark.parametrize(
        ("changes", "field", "message", "remedy"),
        [
            (
                {"teachers": [{"model": "resnet81"}]},
                "teachers.0.model",
                "unknown model 'resnet81'",
                "'resnet18'",
            ),
            ({"student": {"model": "tets_convnext"}}, "student.model", "unknown model", "'test_convnext'"),
            ({"data": {"name": "digit"}}, "data.name", "unknown dataset 'digit'", "did you mean 'digits'?"),
            ({"search": {"strategy": "tpo"}}, "search.strategy", "unknown strategy 'tpo'", "'tpe'"),
            (
                {"search": {"process": {"normalisation": "softmax"}}},
                "search.process.normalisation",
                "unknown normalisation 'softmax'",
                "known: softplus",
            ),
            (
                {"search": {"space": {"transforms": [["projection"], ["projection", "project"]]}}},
                "search.space.transforms.1.1",
                "",
                "'projection'",
            ),
            (
                {"search": {"space": {"distances": [["mse"], ["mse", "atention"]]}}},
                "search.space.distances.1.1",
                "",
                "'attention'",
            ),
            (
                {"search": {"space": {"logit_losses": [[], ["kd", "zzz"]]}}},
                "search.space.logit_losses.1.1",
                "unknown logit loss 'zzz'",
                "known: kd",
            ),
        ],
    )
    def test_each_unknown_name_is_its_fields_fault(
        self, changes: dict[str, Any], field: str, message: str, remedy: str
    ) -> None:
        spec = make_spec(**changes)
        (found,) = check_spec(spec, CATALOGUE)
        assert found.field == field
        assert message in found.message
        assert remedy in found.remedy
        assert not set(requirements(spec)) <= offers(CATALOGUE)

    @pytest.mark.parametrize(
        ("chain", "message", "remedy"),
        [
            ("projection+max_pol2", "unknown operator 'max_pol2'", "did you mean 'max_pool2'?"),
            ("projektion+max_pool2", "unknown transform 'projektion'", "did you mean 'projection'?"),
            ("projection+", "unknown operator ''", "known: channel_attention, max_pool2"),
            ("max_pool2", "'max_pool2' is an operator", "put a transform before it: identity+max_pool2"),
        ],
    )
    def test_the_part_of_a_chain_that_is_wrong_is_named(self, chain: str, message: str, remedy: str) -> None:
        operators = [{"id": f"operator/{name}", "kind": "operator"} for name in OPERATORS]
        catalogue = {**CATALOGUE, "methods": [*CATALOGUE["methods"], *operators]}
        space = {"transforms": [["projection+channel_attention+max_pool2", chain]]}
        (found,) = check_spec(make_spec(search={"space": space}), catalogue)
        assert (found.field, found.message) == ("search.space.transforms.0.1", message)
        assert remedy in found.remedy

    def test_several_faults_are_all_named(self) -> None:
        spec = make_spec(data={"name": "nothing"}, student={"model": "nothing"})
        assert [found.field for found in check_spec(spec, CATALOGUE)] == ["student.model", "data.name"]

    def test_long_lists_are_pointed_to(self) -> None:
        many = {**CATALOGUE, "models": [*CATALOGUE["models"], *(f"model_{index}" for index in range(50))]}
        (found,) = check_spec(make_spec(student={"model": "qqqqq"}), many)
        assert found.remedy == "GET /v1/models lists them all"

    def test_an_empty_catalogue_serves_nothing(self) -> None:
        assert (
            len(check_spec(make_spec(), {}))
            == len({found.field for found in check_spec(make_spec(), {})})
            > 5
        )
        assert offers({}) == set()

    def test_a_weights_tag_is_no_part_of_a_models_name(self) -> None:
        spec = make_spec(teachers=[{"model": "resnet18.a1_in1k", "weights": "pretrained"}])
        assert check_spec(spec, CATALOGUE) == []
        assert "model:resnet18" in requirements(spec)

    @pytest.mark.parametrize("name", ["hf-hub:someone/resnet18", "local-dir:models", "resnet18/.."])
    def test_timms_other_sources_are_no_models_of_the_catalogue(self, name: str) -> None:
        assert check_spec(make_spec(teachers=[{"model": name}]), CATALOGUE)

    def test_requirements_name_everything_once(self) -> None:
        spec = make_spec(
            search={
                "strategy": "random",
                "process": {"normalisation": "biased_softmax"},
                "space": {
                    "transforms": [["identity"], ["identity", "gated"]],
                    "distances": [["mse"], ["mse", "hcl"]],
                    "logit_losses": [[], ["dist"]],
                },
            },
        )
        assert requirements(spec) == [
            "augmentation:shift", "dataset:digits", "distance:hcl", "distance:mse",
            "hypergradient:exact", "logit_loss:dist", "logit_loss:kd",
            "model:test_convnext", "model:test_resnet",
            "normalisation:biased_softmax", "strategy:random", "transform:gated", "transform:identity",
        ]  # fmt: skip

    def test_every_kind_of_method_that_a_spec_names_is_required(self) -> None:
        space = {
            "feature_losses": [["rkd"]],
            "temperature_rules": ["dts"],
            "transforms": [["identity+max_pool2"]],
        }
        spec = make_spec(search={"space": space})
        kinds = {requirement.partition(":")[0] for requirement in requirements(spec)}
        assert kinds == {kind.value for kind in Kind} | {"model", "dataset"}


class TestValidation:
    @pytest.mark.parametrize(
        ("changes", "field", "message", "remedy"),
        [
            ({"budget": {"trails": 3}}, "budget.trails", "unknown field 'trails'", "did you mean 'trials'?"),
            ({"budget": {"epochs": 3}}, "budget.epochs", "unknown field 'epochs'", "'epochs_per_trial'"),
            (
                {"epochs_per_trial": 3},
                "epochs_per_trial",
                "unknown field",
                "it belongs at budget.epochs_per_trial;",
            ),
            (
                {"teachers": [{"model": "a", "wieghts": "x"}]},
                "teachers.0.wieghts",
                "unknown field",
                "'weights'",
            ),
            (
                {"search": {"space": {"process_learning_rate": {"low": 1.0, "high": 2.0, "lgo": 1}}}},
                "search.space.process_learning_rate.lgo",
                "unknown field",
                "'log'",
            ),
            (
                {"budget": {"trials": 0}},
                "budget.trials",
                "must be at least 1, found 0",
                "give a number at least 1",
            ),
            ({"budget": {"trials": -4}}, "budget.trials", "must be at least 1, found -4", "at least 1"),
            (
                {"budget": {"epochs_per_trial": 0}},
                "budget.epochs_per_trial",
                "must be at least 1, found 0",
                "at least 1",
            ),
            (
                {"budget": {"device_seconds": -1}},
                "budget.device_seconds",
                "must be greater than 0, found -1",
                "greater than 0",
            ),
            (
                {"budget": {"wall_seconds": float("inf")}},
                "budget.wall_seconds",
                "finite",
                "give a finite number",
            ),
            (
                {"budget": {"trials": "3"}},
                "budget.trials",
                "must be a whole number, found the text '3'",
                "without quotation marks",
            ),
            (
                {"budget": {"trials": 1.5}},
                "budget.trials",
                "must be a whole number, found 1.5",
                "whole number",
            ),
            (
                {"budget": {"trials": True}},
                "budget.trials",
                "must be a whole number, found True",
                "whole number",
            ),
            ({"budget": None}, "budget", "must be an object, found null", "give an object"),
            ({"budget": []}, "budget", "must be an object, found a list", "give an object"),
            ({"teachers": {}}, "teachers", "must be a list, found an object", "give a list"),
            ({"teachers": []}, "teachers", "must have at least 1 item", "give at least 1 item"),
            ({"teachers": [{}]}, "teachers.0.model", "is missing", "Name of a timm model."),
            (
                {"teachers": [{"model": "a"}, {"model": "b"}]},
                "teachers",
                "several teachers are not supported yet",
                "give one",
            ),
            ({"student": {"space": ["a", "b"]}}, "student", "not supported yet", "give `model`"),
            (
                {"student": {"model": "../../etc/passwd"}},
                "student.model",
                "'../../etc/passwd' is no name",
                "begins with a letter",
            ),
            (
                {"training": {"optimizer": "adma"}},
                "training.optimizer",
                "must not be 'adma'",
                "did you mean 'adam' or 'adamw'? use 'sgd', 'adam' or 'adamw'",
            ),
            ({"training": {"nesterov": 1}}, "training.nesterov", "must be true or false", "true or false"),
            ({"proof": {"seeds": [1]}}, "proof.seeds", "must have at least 2 items", "at least 2 items"),
            (
                {"proof": {"arms": ["searched"]}},
                "proof",
                "arms must contain student_alone, tuned_kd",
                "correct proof",
            ),
            ({"name": ""}, "name", "must have at least 1 character", "at least 1 character"),
            ({"labels": {"a": 3}}, "labels.a", "must be a text, found 3", "give a text"),
            ({"transfer": "auto"}, "transfer.source", "transfer is not supported yet", "use `off`"),
            (
                {"search": {"space": {"transforms": ["projection"]}}},
                "search.space.transforms.0",
                "must be a list, found the text 'projection'",
                "give a list",
            ),
            (
                {"search": {"space": {"connections": ["none"], "logit_losses": [[]]}}},
                "search.space",
                "nothing would be distilled",
                "add a connection other than `none`, a logit loss, or a feature loss",
            ),
            ({"floor_accuracy": 2}, "floor_accuracy", "must be at most 1, found 2", "at most 1"),
            (
                {"search": {"process": {"initial_temperature": 0.05}}},
                "search.process.initial_temperature",
                "must be greater than 1",
                "greater than 1",
            ),
        ],
    )
    def test_each_fault_in_words(
        self, changes: dict[str, Any], field: str, message: str, remedy: str
    ) -> None:
        found = fault(**changes)
        assert found.field == field
        assert message in found.message
        assert remedy in found.remedy

    def test_a_missing_part_at_the_top(self) -> None:
        (found,) = faults({"student": {"model": "a"}})
        assert found == SpecFault("teachers", "is missing", "give teachers")

    def test_truncated_json(self) -> None:
        (found,) = faults('{"teachers": [')
        assert found.field == ""
        assert found.message.startswith("is not valid JSON: EOF while parsing")

    def test_not_an_object(self) -> None:
        assert faults("[]") == [SpecFault("", "must be an object, found a list", "give an object")]

    def test_several_at_once(self) -> None:
        found = faults({"teachers": [], "student": {"model": "a"}, "budget": {"trials": 0, "x": 1}})
        assert [one.field for one in found] == ["teachers", "budget.trials", "budget.x"]

    def test_long_input_is_not_sent_back(self) -> None:
        found = fault(budget={"trials": "9" * 10_000})
        assert len(found.message) < SHOWN_INPUT_CHARACTERS + 60

    def test_kinds_of_errors_that_it_has_no_words_for_are_pydantics(self) -> None:
        class Other(BaseModel):
            model_config = ConfigDict(extra="forbid")
            identifier: bytes

        (found,) = faults({"identifier": 3}, Other)
        assert found.field == "identifier"
        assert "bytes" in found.message
        assert found.remedy

    def test_every_fault_has_a_remedy(self) -> None:
        nonsense: dict[str, Any] = dict.fromkeys(JobSpec.model_fields, 1.5)
        found = faults({**nonsense, "unheard": 1, "of": {}})
        assert len(found) > 10
        for one in found:
            assert one.field
            assert one.message
            assert one.remedy


class TestSuggestions:
    def test_nearest_names_come_first_whatever_their_case(self) -> None:
        assert did_you_mean("ResNet18", ["resnet18", "resnet34"]) == "did you mean 'resnet18' or 'resnet34'?"
        assert did_you_mean("TPE", ["tpe"]) == "did you mean 'tpe'?"

    def test_what_contains_the_name_comes_next(self) -> None:
        assert did_you_mean("epochs", ["epochs_per_trial", "trials"]) == "did you mean 'epochs_per_trial'?"

    def test_nothing_is_made_up(self) -> None:
        assert did_you_mean("qqq", ["resnet18", "digits"]) is None
        assert did_you_mean("anything", []) is None
