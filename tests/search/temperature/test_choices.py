"""Temperature rules in a spec: chosen, searched, refused; and what a trial then trains with."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from search.catalogue_checks import check_spec, requirements
from search.dimensions import Interval, Options, starting_choices
from search.planning.arms import dimensions_of, search_run
from search.preflight import require_settings
from search.problems import SearchProblem
from search.recipe import LogitLoss, Process, TemperatureRule
from search.records import PreflightResult, StageName
from search.registry import load_everything, methods
from search.spec import JobSpec
from tests.search.planning.simulated_job import SimulatedJob, make_spec, preflight_result

RANGE = {"low": 4.0, "high": 16.0}
SCHEDULE = {"name": "dts", "config": {"initial_temperature": RANGE, "average_decay": 0.5}}

load_everything()


def spec_with(*rules: Any, **space: Any) -> JobSpec:
    return make_spec(search={"space": {"temperature_rules": list(rules), **space}})


def losses_of(spec: JobSpec, **choices: Any) -> list[LogitLoss]:
    chosen = {**starting_choices(dimensions_of(spec)), **choices}
    return search_run(spec, chosen, PreflightResult.model_validate(preflight_result())).process.logit_losses


def test_a_spec_that_does_not_speak_of_rules_is_as_it_was() -> None:
    spec = make_spec()
    assert all(not one.name.startswith("temperature_rules") for one in dimensions_of(spec))
    assert losses_of(spec) == [LogitLoss(name="kd")]
    assert not any(one.startswith("temperature_rule") for one in requirements(spec))


def test_a_recipe_from_before_there_were_rules_is_read() -> None:
    loss = LogitLoss.model_validate({"name": "kd", "teacher": 0, "config": {}})
    assert loss.temperature_rule is None


def test_a_trial_takes_one_rule_for_all_its_logit_losses() -> None:
    spec = spec_with("fixed", "ctkd", logit_losses=[["kd", "dkd"]])
    (dimension,) = (one for one in dimensions_of(spec) if one.name.startswith("temperature_rules"))
    assert dimension == Options("temperature_rules", ("fixed", "ctkd"))
    for name in ("fixed", "ctkd"):
        rule = TemperatureRule(name=name)
        assert losses_of(spec, temperature_rules=name) == [
            LogitLoss(name="kd", temperature_rule=rule), LogitLoss(name="dkd", temperature_rule=rule)
        ]  # fmt: skip


def test_a_range_is_a_dimension_of_its_own() -> None:
    spec = spec_with(SCHEDULE)
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    choice, setting = (one for one in dimensions_of(spec) if one.name.startswith("temperature_rules"))
    assert choice.name == "temperature_rules"
    assert setting == Interval("temperature_rules.dts.initial_temperature", 4.0, 16.0, log=True)
    (loss,) = losses_of(spec, **{setting.name: 5.0})
    assert loss.temperature_rule == TemperatureRule(
        name="dts", config={"initial_temperature": 5.0, "average_decay": 0.5}
    )


@pytest.mark.parametrize("strategy", ["tpe", "random"])
def test_a_search_draws_rules_and_their_settings(strategy: str) -> None:
    space = {"temperature_rules": ["learned", SCHEDULE]}
    job = SimulatedJob(make_spec(budget={"trials": 12}, search={"strategy": strategy, "space": space}))
    job.run_to(StageName.TUNING)
    runs = [
        Process.model_validate(trial.parameters["process"]) for trial in job.of(StageName.SEARCH, "searched")
    ]
    rules = [loss.temperature_rule for run in runs for loss in run.logit_losses]
    assert {rule.name for rule in rules if rule} == {"learned", "dts"}
    drawn = [rule.config["initial_temperature"] for rule in rules if rule and rule.name == "dts"]
    assert len(set(drawn)) == len(drawn)
    assert all(4 <= float(str(value)) <= 16 for value in drawn)


def test_the_rule_goes_along_into_every_arm_of_the_searched_losses() -> None:
    job = SimulatedJob(make_spec(search={"space": {"temperature_rules": ["dts"]}}))
    job.run()
    rules = {
        trial.key.arm: [loss["temperature_rule"] for loss in trial.parameters["process"]["logit_losses"]]
        for trial in job.of(StageName.PROOF)
    }
    assert rules["searched"] == rules["uniform"] == [{"name": "dts", "config": {}}]
    assert rules["plain_kd"] == rules["tuned_kd"] == [None]


def test_a_setting_is_searched_in_one_way() -> None:
    other = {"name": "dts", "config": {"initial_temperature": [4.0, 8.0]}}
    with pytest.raises(ValidationError, match="initial_temperature of dts is searched in two ways"):
        spec_with(SCHEDULE, other)


def test_an_empty_list_of_rules_is_refused() -> None:
    with pytest.raises(ValidationError):
        spec_with()


def test_what_the_catalogue_does_not_have_is_said_with_the_nearest_name() -> None:
    catalogue = {
        "methods": [method.described() for method in methods()],
        "models": ["test_resnet", "test_convnext"],
        "datasets": ["digits"],
    }
    spec = spec_with("learnt", {"name": "dts", "config": {"average_deacy": 0.5}})
    unknown, setting = check_spec(spec, catalogue)
    assert unknown.field == "search.space.temperature_rules.0"
    assert unknown.message == "unknown temperature rule 'learnt'"
    assert "did you mean 'learned'" in unknown.remedy
    assert setting.field == "search.space.temperature_rules.1.config.average_deacy"
    assert setting.remedy.startswith("did you mean 'average_decay'")
    assert "temperature_rule:dts" in requirements(spec)


def test_preflight_tries_the_ends_of_ranges() -> None:
    require_settings(spec_with("learned", SCHEDULE))
    broken = {"name": "dts", "config": {"lowest_temperature": {"low": 2.0, "high": 10.0}}}
    with pytest.raises(SearchProblem, match=r"temperature_rules\.1: .*lowest_temperature") as caught:
        require_settings(spec_with("learned", broken))
    assert caught.value.code == "unknown_method"
