"""Methods with settings: what a spec may say, how they are searched, what a trial then trains with."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from search.catalogue_checks import check_spec
from search.dimensions import Interval, Options, starting_choices
from search.planning.arms import dimensions_of, search_run
from search.recipe import LogitLoss
from search.records import PreflightResult, StageName
from search.registry import Kind, load_everything, methods
from search.spec import JobSpec
from search.spec_faults import explain_validation
from tests.search.planning.simulated_job import SimulatedJob, make_spec, preflight_result

RANGE = {"low": 1.0, "high": 16.0}
GRIDS, GROUPS = {"low": 1, "high": 8}, {"low": 2, "high": 3}

load_everything()


def spec_with(*choices: list[Any]) -> JobSpec:
    return make_spec(search={"space": {"logit_losses": list(choices)}})


def losses_of(spec: JobSpec, **choices: Any) -> list[LogitLoss]:
    chosen = {**starting_choices(dimensions_of(spec)), **choices}
    return search_run(spec, chosen, PreflightResult.model_validate(preflight_result())).process.logit_losses


def fault_of(*choices: list[Any]) -> tuple[str, str, str]:
    with pytest.raises(ValidationError) as caught:
        spec_with(*choices)
    (fault,) = explain_validation(caught.value)
    return fault.field, fault.message, fault.remedy


def test_a_name_alone_is_the_method_at_its_defaults() -> None:
    assert losses_of(spec_with(["kd", "dkd"])) == [LogitLoss(name="kd"), LogitLoss(name="dkd")]


def test_fixed_settings_go_into_the_process_as_they_are() -> None:
    use = {"name": "dkd", "config": {"rest_weight": 2.0, "target_weight": 0.5}}
    spec = spec_with([use, "kd"])
    expected = LogitLoss(name="dkd", config={"rest_weight": 2.0, "target_weight": 0.5})
    assert losses_of(spec) == [expected, LogitLoss(name="kd")]
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_range_is_a_dimension_of_the_search_wherever_the_method_is_chosen() -> None:
    use = {"name": "dkd", "config": {"rest_weight": RANGE, "target_weight": 2.0}}
    spec = spec_with(["kd"], [use], [use, "kd"])
    (dimension,) = (one for one in dimensions_of(spec) if one.name.startswith("logit_losses."))
    assert dimension == Interval("logit_losses.dkd.rest_weight", 1.0, 16.0, log=True)
    chosen = [{**use, "config": {**use["config"], "rest_weight": {**RANGE, "log": True}}}]
    (loss,) = losses_of(spec, logit_losses=chosen)
    assert loss.config == {"rest_weight": pytest.approx(4.0), "target_weight": 2.0}
    (loss,) = losses_of(spec, logit_losses=chosen, **{dimension.name: 7.0})
    assert loss.config["rest_weight"] == 7.0


def test_a_list_holds_values_to_choose_from() -> None:
    spec = spec_with([{"name": "logit_std", "config": {"of": ["kd", "dkd"]}}])
    (dimension,) = (one for one in dimensions_of(spec) if one.name.startswith("logit_losses."))
    assert dimension == Options("logit_losses.logit_std.of", ("kd", "dkd"))
    assert losses_of(spec, **{dimension.name: "dkd"}) == [LogitLoss(name="logit_std", config={"of": "dkd"})]


@pytest.mark.parametrize("strategy", ["tpe", "random"])
def test_a_search_draws_settings_and_each_trial_trains_with_its_own(strategy: str) -> None:
    use = {"name": "dkd", "config": {"rest_weight": RANGE}}
    space = {"logit_losses": [["kd"], [use]]}
    job = SimulatedJob(make_spec(budget={"trials": 12}, search={"strategy": strategy, "space": space}))
    job.run_to(StageName.TUNING)
    trials = job.of(StageName.SEARCH, "searched")
    runs = [trial.parameters["process"]["logit_losses"] for trial in trials]
    drawn = [loss["config"]["rest_weight"] for losses in runs for loss in losses if loss["name"] == "dkd"]
    assert len(set(drawn)) == len(drawn) > 1
    assert all(1 <= value <= 16 for value in drawn)
    assert any(loss["name"] == "kd" and not loss["config"] for losses in runs for loss in losses)


class TestFaults:
    def test_one_setting_is_searched_in_one_way(self) -> None:
        field, message, remedy = fault_of(
            [{"name": "dkd", "config": {"rest_weight": RANGE}}],
            [{"name": "dkd", "config": {"rest_weight": [1.0, 2.0]}}],
        )
        assert (field, remedy) == ("search.space", "give it one range wherever it is searched")
        assert message == "rest_weight of dkd is searched in two ways"

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (float("nan"), "rest_weight must be finite"),
            ([1.0, float("inf")], "rest_weight must be finite"),
            ({"low": 2.0, "high": 1.0}, "must not be above high"),
            ({"low": 1.0, "high": 2.0, "lgo": True}, "rest_weight.lgo is no range"),
            ([], "1 to 64 values"),
            ("x" * 1000, "over 200 characters"),
        ],
    )
    def test_values_that_cannot_be_read(self, value: Any, words: str) -> None:
        field, message, _ = fault_of([{"name": "dkd", "config": {"rest_weight": value}}])
        assert field == "search.space.logit_losses.0.0.config"
        assert words in message

    @pytest.mark.parametrize(
        ("space", "where", "values"),
        [
            (
                {"distances": [[{"name": "hcl", "config": {"finest_grid": GRIDS}}]]},
                "distances",
                "[1, 2, 4, 8]",
            ),
            (
                {"feature_losses": [[{"name": "norm", "config": {"groups": GROUPS}}]]},
                "feature_losses",
                "[2, 3]",
            ),
        ],
    )
    def test_whole_numbers_are_listed_and_not_drawn_from_a_range(
        self, space: dict[str, Any], where: str, values: str
    ) -> None:
        catalogue = {
            "methods": [method.described() for method in methods()],
            "models": ["test_resnet", "test_convnext"],
            "datasets": ["digits"],
        }
        (fault,) = check_spec(make_spec(search={"space": space}), catalogue)
        assert fault.field.startswith(f"search.space.{where}.0.0.config.")
        assert "takes whole numbers" in fault.message
        assert fault.remedy == f"list the values to choose from, such as {values}"

    def test_a_field_that_a_method_does_not_have(self) -> None:
        field, message, remedy = fault_of([{"name": "dkd", "conf": {}}])
        assert field == "search.space.logit_losses.0.0.conf"
        assert message == "unknown field 'conf'"
        assert "did you mean 'config'" in remedy

    def test_a_loss_that_is_neither_a_name_nor_an_object(self) -> None:
        field, message, _ = fault_of([3])
        assert field == "search.space.logit_losses.0.0"
        assert message == "must be a text, found 3"

    def test_the_api_refuses_settings_that_the_catalogue_does_not_know(self) -> None:
        catalogue = {
            "methods": [method.described() for method in methods()],
            "models": ["test_resnet", "test_convnext"],
            "datasets": ["digits"],
        }
        use = {"name": "dkd", "config": {"rest_wieght": 1.0}}
        (fault,) = check_spec(spec_with([use], ["dkd"]), catalogue)
        assert fault.field == "search.space.logit_losses.0.0.config.rest_wieght"
        assert fault.message == "logit loss 'dkd' has no setting 'rest_wieght'"
        assert fault.remedy.startswith("did you mean 'rest_weight'")
        assert fault.remedy.endswith("its settings: rest_weight, target_weight")
        (fault,) = check_spec(spec_with([{"name": "kd", "config": {"rest_weight": 1.0}}]), catalogue)
        assert fault.remedy == "it has no settings"


def test_every_range_of_a_card_lies_within_its_setting() -> None:
    kinds = (Kind.TRANSFORM, Kind.DISTANCE, Kind.LOGIT_LOSS)
    for method in (method for kind in kinds for method in methods(kind)):
        for setting, searched in method.card.ranges().items():
            for value in (searched["low"], searched["high"]):
                assert getattr(method.configured({setting: value}), setting) == value


class TestFeatureLosses:
    def spec(self, *choices: list[Any], **space: Any) -> JobSpec:
        return make_spec(search={"space": {"feature_losses": list(choices), **space}})

    def pathways(self, spec: JobSpec, **choices: Any) -> list[str]:
        chosen = {**starting_choices(dimensions_of(spec)), **choices}
        run = search_run(spec, chosen, PreflightResult.model_validate(preflight_result()))
        return [pathway.name for pathway in run.process.pathways]

    def test_a_space_that_does_not_speak_of_them_has_no_such_dimension(self) -> None:
        assert all(one.name != "feature_losses" for one in dimensions_of(make_spec()))

    def test_they_follow_the_pathways_and_start_at_their_weight(self) -> None:
        spec = self.spec(["rkd"])
        plain = self.pathways(make_spec())
        assert self.pathways(spec) == [*plain, "rkd"]
        chosen = starting_choices(dimensions_of(spec))
        run = search_run(spec, chosen, PreflightResult.model_validate(preflight_result()))
        weights = run.process.points[0].pathway_weights
        assert weights == [spec.search.process.initial_pathway_weight] * len(weights)

    def test_a_setting_is_searched_by_a_dimension_of_its_own(self) -> None:
        use = {"name": "rkd", "config": {"angle_weight": RANGE, "distance_weight": 3.0}}
        spec = self.spec([], [use])
        dimension = next(one for one in dimensions_of(spec) if one.name.startswith("feature_losses."))
        assert dimension == Interval("feature_losses.rkd.angle_weight", 1.0, 16.0, log=True)
        chosen = [{**use, "config": {**use["config"], "angle_weight": {**RANGE, "log": True}}}]
        found = self.pathways(spec, feature_losses=chosen, **{dimension.name: 7.0})
        assert found[-1] == "rkd(angle_weight=7.0, distance_weight=3.0)"

    def test_they_alone_are_enough_to_distil(self) -> None:
        spec = self.spec(["rkd"], connections=["none"], logit_losses=[[]])
        assert self.pathways(spec) == ["rkd"]

    def test_a_trial_that_would_distil_nothing_gets_the_first_of_them(self) -> None:
        spec = self.spec([], ["rkd"], connections=["none"], logit_losses=[[]])
        job = SimulatedJob(spec.model_copy(update={}))
        job.run_to(StageName.TUNING)
        trials = job.of(StageName.SEARCH, "searched")
        assert trials
        assert all(trial.parameters["process"]["pathways"] for trial in trials)

    def test_nothing_at_all_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="a feature loss"):
            self.spec([], connections=["none"], logit_losses=[[]])

    def test_what_the_catalogue_does_not_have_is_said_with_the_nearest_name(self) -> None:
        catalogue = {"methods": [method.described() for method in methods()]}
        unknown, setting = (
            fault
            for fault in check_spec(
                self.spec(["rdk", {"name": "rkd", "config": {"angel_weight": 2.0}}]), catalogue
            )
            if fault.field.startswith("search.space.feature_losses")
        )
        assert unknown.field == "search.space.feature_losses.0.0"
        assert "did you mean 'rkd'" in unknown.remedy
        assert setting.field == "search.space.feature_losses.0.1.config.angel_weight"
        assert "angle_weight" in setting.remedy


class TestTransformsAndDistances:
    CHAIN = {
        "name": "gated+channel_attention",
        "config": {"width_ratio": 0.5, "channel_attention.temperature": {"low": 0.1, "high": 4.0}},
    }
    GRIDS = {"name": "hcl", "config": {"finest_grid": [2, 4]}}

    def spec(self, **space: Any) -> JobSpec:
        return make_spec(search={"space": {"connections": ["last"], **space}})

    def pathways(self, spec: JobSpec, **choices: Any) -> list[str]:
        chosen = {**starting_choices(dimensions_of(spec)), **choices}
        run = search_run(spec, chosen, PreflightResult.model_validate(preflight_result()))
        return [pathway.name.partition("/")[2] for pathway in run.process.pathways]

    def test_names_alone_are_choices_as_they_were(self) -> None:
        dimensions = {one.name: one for one in dimensions_of(self.spec())}
        assert dimensions["transforms"] == Options("transforms", (["projection"],))
        assert dimensions["distances"] == Options("distances", (["mse"], ["mse", "attention"]))
        assert not [name for name in dimensions if name.startswith(("transforms.", "distances."))]

    def test_settings_are_dimensions_and_a_trial_trains_with_its_own(self) -> None:
        spec = self.spec(transforms=[[self.CHAIN]], distances=[["mse", self.GRIDS]])
        dimensions = {one.name: one for one in dimensions_of(spec)}
        temperature = "transforms.gated+channel_attention.channel_attention.temperature"
        assert dimensions[temperature] == Interval(temperature, 0.1, 4.0, log=True)
        assert dimensions["distances.hcl.finest_grid"] == Options("distances.hcl.finest_grid", (2, 4))
        found = self.pathways(spec, **{temperature: 1.5, "distances.hcl.finest_grid": 4})
        chain = "gated+channel_attention(channel_attention.temperature=1.5, width_ratio=0.5)"
        assert found == [f"{chain}/mse", f"{chain}/hcl(finest_grid=4)"]
        assert JobSpec.model_validate_json(spec.model_dump_json()) == spec

    @pytest.mark.parametrize("strategy", ["tpe", "random"])
    def test_a_search_draws_them(self, strategy: str) -> None:
        spec = make_spec(
            budget={"trials": 12},
            search={
                "strategy": strategy,
                "space": {
                    "connections": ["last"],
                    "transforms": [["projection"], [self.CHAIN]],
                    "distances": [["mse"], [self.GRIDS]],
                },
            },
        )
        job = SimulatedJob(spec)
        job.run_to(StageName.TUNING)
        pathways = [
            pathway
            for trial in job.of(StageName.SEARCH, "searched")
            for pathway in trial.parameters["process"]["pathways"]
        ]
        temperatures = [
            pathway["transform_config"]["channel_attention.temperature"]
            for pathway in pathways
            if "+" in pathway["transform"]
        ]
        assert len(set(temperatures)) == len(temperatures) > 1
        assert all(0.1 <= temperature <= 4 for temperature in temperatures)
        assert {pathway["distance_config"].get("finest_grid") for pathway in pathways} == {None, 2, 4}

    def test_one_setting_is_searched_in_one_way(self) -> None:
        other = {**self.CHAIN, "config": {"channel_attention.temperature": [1.0, 2.0]}}
        with pytest.raises(ValidationError, match="searched in two ways"):
            self.spec(transforms=[[self.CHAIN], [other]])

    def test_settings_do_not_decide_whether_a_pathway_fits(self) -> None:
        """A job without a fitting pathway is refused whatever the settings, and one with one is not."""
        job = SimulatedJob(self.spec(transforms=[[self.CHAIN]], logit_losses=[[]]))
        job.run_to(StageName.TUNING)
        assert job.of(StageName.SEARCH, "searched")

    @pytest.mark.parametrize(
        ("use", "where", "message", "remedy"),
        [
            (
                {"name": "gated+channel_attention", "config": {"channel_attention.temprature": 1.0}},
                "config.channel_attention.temprature",
                "transform 'gated+channel_attention' has no setting 'channel_attention.temprature'",
                "did you mean 'channel_attention.temperature'?",
            ),
            (
                {"name": "gated+max_pool2", "config": {"random_mask.ratio": 0.5}},
                "config.random_mask.ratio",
                "transform 'gated+max_pool2' has no setting 'random_mask.ratio'",
                "its settings: width_ratio",
            ),
        ],
    )
    def test_the_api_refuses_settings_that_no_part_of_a_chain_has(
        self, use: dict[str, Any], where: str, message: str, remedy: str
    ) -> None:
        catalogue = {
            "methods": [method.described() for method in methods()],
            "models": ["test_resnet", "test_convnext"],
            "datasets": ["digits"],
        }
        (fault,) = check_spec(self.spec(transforms=[["projection", use]]), catalogue)
        assert fault.field == f"search.space.transforms.0.1.{where}"
        assert fault.message == message
        assert remedy in fault.remedy
        assert check_spec(self.spec(transforms=[[self.CHAIN]], distances=[[self.GRIDS]]), catalogue) == []
