"""Preflight: what is wrong is said in words, with figures and a remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from search.data import Dataset, ImageSet, open_dataset
from search.models import TappedModel, build_model
from search.preflight import (
    KINDS,
    cards_for,
    floor_accuracy,
    grouped,
    run_preflight,
    seconds_per_step,
    untrained_judges,
)
from search.problems import SearchProblem
from search.records import PreflightResult
from search.spec import JobSpec

EMBEDDINGS = {"connections": ["none"], "logit_losses": [[]], "feature_losses": [["rkd"]]}


def spec_of(**changes: object) -> JobSpec:
    base = {"teachers": [{"model": "test_resnet"}], "student": {"model": "test_convnext"}}
    return JobSpec.model_validate({**base, **changes})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return open_dataset("digits", spec_of().data.splits)


def model(dataset: Dataset, name: str) -> TappedModel:
    return build_model(
        name,
        classes=dataset.classes,
        channels=dataset.channels,
        input_size=dataset.size,
        seed=0,
        data_mean=dataset.mean,
        data_std=dataset.std,
    )


def run(spec: JobSpec, dataset: Dataset, *, is_teacher_ready: bool = True) -> PreflightResult:
    return run_preflight(
        spec,
        dataset,
        teacher=model(dataset, spec.teacher.model),
        student=model(dataset, spec.student.name),
        is_teacher_ready=is_teacher_ready,
        measure=lambda kind: 0.01 * (1 + KINDS.index(kind)),
    )


class TestResult:
    def test_it_says_what_the_plan_needs(self, dataset: Dataset) -> None:
        found = run(spec_of(floor_accuracy=0.0), dataset)
        assert found.split_sizes == {"train": 400, "meta": 200, "validation": 200, "test": 997}
        assert found.steps_per_epoch == {"search": 400 // 64, "proof": 800 // 64}
        assert found.seconds_per_step == {kind: 0.01 * (1 + KINDS.index(kind)) for kind in KINDS}
        assert len(found.teacher_stages) == 5
        assert len(found.student_stages) == 4
        assert found.teacher_accuracy is not None
        assert found.data_sha256 == dataset.content_sha256
        assert PreflightResult.model_validate_json(json.dumps(found.model_dump(mode="json"))) == found

    def test_a_dry_run_without_a_teacher_says_so(self, dataset: Dataset) -> None:
        found = run(spec_of(), dataset, is_teacher_ready=False)
        assert found.teacher_accuracy is None
        assert found.teacher_weights_sha256 is None
        assert any("not trained yet" in note for note in found.notes)

    def test_resized_images_are_noted(self, dataset: Dataset) -> None:
        spec = spec_of(student={"model": "efficientformer_l1"}, floor_accuracy=0.0)
        assert any("resized from 32 to 224" in note for note in run(spec, dataset).notes)


class TestSettings:
    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"rest_weigth": 1.0}, "did you mean 'rest_weight'"),
            ({"rest_weight": -1.0}, "at least 0"),
            ({"rest_weight": [1.0, "much"]}, "rest_weight"),
        ],
    )
    def test_settings_that_a_method_cannot_take_are_refused(
        self, dataset: Dataset, config: dict[str, object], words: str
    ) -> None:
        space = {"logit_losses": [["kd"], ["kd", {"name": "dkd", "config": config}]]}
        with pytest.raises(SearchProblem, match=words) as caught:
            run(spec_of(search={"space": space}, floor_accuracy=0.0), dataset)
        assert caught.value.code == "unknown_method"
        assert caught.value.message.startswith("search.space.logit_losses.1.1")

    @pytest.mark.parametrize(
        ("field", "use", "words"),
        [
            ("transforms", {"name": "gated", "config": {"width": 0.5}}, "width"),
            (
                "transforms",
                {"name": "gated", "config": {"width_ratio": {"low": 0.5, "high": 99.0}}},
                "at most 16",
            ),
            ("transforms", {"name": "gated+random_mask", "config": {"random_mask.ratio": 2}}, "at most 0.99"),
            ("transforms", {"name": "gated+max_pol2", "config": {"width_ratio": 0.5}}, "'max_pol2'"),
            ("distances", {"name": "hcl", "config": {"finest_grid": [1, 2, 3]}}, "finest_grid"),
            ("distances", {"name": "kl", "config": {"temperature": "hot"}}, "temperature"),
        ],
    )
    def test_so_are_those_of_transforms_operators_and_distances(
        self, dataset: Dataset, field: str, use: dict[str, object], words: str
    ) -> None:
        usual = {"transforms": "projection", "distances": "mse"}[field]
        with pytest.raises(SearchProblem, match=words) as caught:
            run(spec_of(search={"space": {field: [[usual], [usual, use]]}}, floor_accuracy=0.0), dataset)
        assert caught.value.code == "unknown_method"
        assert caught.value.message.startswith(f"search.space.{field}.1.1")


class TestCards:
    def test_the_cards_of_all_methods_that_the_job_may_use_are_in_the_result(self, dataset: Dataset) -> None:
        space = {"logit_losses": [["kd"], ["logit_std"]], "feature_losses": [[], ["rkd"]]}
        found = run(spec_of(search={"space": space}, floor_accuracy=0.0), dataset)
        expected = {"logit_loss/kd", "logit_loss/logit_std", "feature_loss/rkd", "transform/projection"}
        assert expected <= set(found.cards)
        assert found.cards["feature_loss/rkd"]["least_batch"] == 8
        assert "feature_loss/crd" not in found.cards
        assert found.cards["distance/attention"]["ignores_channels"]

    def test_a_choice_that_cannot_be_used_is_noted(self, dataset: Dataset) -> None:
        spec = spec_of(
            search={"space": {"feature_losses": [["crd"], []]}},
            training={"cutmix_alpha": 1.0},
            floor_accuracy=0.0,
        )
        notes = run(spec, dataset).notes
        assert any(note.startswith("search.space.feature_losses.0 is passed over") for note in notes)

    def test_a_space_without_another_is_refused(self, dataset: Dataset) -> None:
        spec = spec_of(search={"space": {"feature_losses": [["crd"]]}}, training={"cutmix_alpha": 1.0})
        with pytest.raises(SearchProblem, match=r"search\.space\.feature_losses: .*'crd'") as caught:
            run(spec, dataset)
        assert caught.value.code == "methods_do_not_combine"


class TestFloor:
    def test_an_untrained_teacher_is_refused_with_accuracy_floor_and_remedy(self, dataset: Dataset) -> None:
        with pytest.raises(SearchProblem, match=r"reaches \d+\.\d%.*floor of.*floor_accuracy") as caught:
            run(spec_of(floor_accuracy=0.5), dataset)
        assert caught.value.code == "teacher_check_failed"
        assert "50.0%" in caught.value.message

    def test_the_default_is_one_and_a_half_times_the_majority_rate(self) -> None:
        assert floor_accuracy(spec_of(), majority=0.1) == pytest.approx(0.15)
        assert floor_accuracy(spec_of(), majority=0.5) == pytest.approx(0.75)

    def test_it_can_be_reached_even_where_one_class_dominates(self) -> None:
        assert floor_accuracy(spec_of(), majority=0.9) == pytest.approx(0.95)

    def test_zero_switches_it_off(self, dataset: Dataset) -> None:
        assert run(spec_of(floor_accuracy=0.0), dataset).floor_accuracy == 0.0


class TestBatches:
    def test_fewer_images_than_a_batch_is_refused_by_field(self, dataset: Dataset) -> None:
        with pytest.raises(SearchProblem, match=r"400 images.*training\.batch_size") as caught:
            run(spec_of(training={"batch_size": 401}, floor_accuracy=0.0), dataset)
        assert caught.value.code == "dataset_too_small"

    def test_so_is_a_meta_batch(self, dataset: Dataset) -> None:
        spec = spec_of(search={"process": {"meta_batch_size": 300}}, floor_accuracy=0.0)
        with pytest.raises(SearchProblem, match=r"200 images.*meta_batch_size"):
            run(spec, dataset)


def test_the_majority_is_counted_on_validation(dataset: Dataset) -> None:
    validation = dataset.splits["validation"]
    skewed = ImageSet(validation.images, torch.zeros_like(validation.labels))
    changed = Dataset(**{**dataset.__dict__, "splits": {**dataset.splits, "validation": skewed}})
    assert run(spec_of(floor_accuracy=0.0), changed).majority_rate == 1.0


def test_the_median_step_is_measured_after_the_slow_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def steps() -> Iterator[None]:
        nonlocal clock
        for seconds in (9.0, 5.0, 1.0, 2.0, 1.0, 30.0, 1.0):
            clock += seconds
            yield None

    monkeypatch.setattr("time.perf_counter", lambda: clock)
    assert seconds_per_step(steps()) == 1.0
    assert len(list(grouped(iter(range(7)), 3))) == 2


@pytest.fixture(scope="module")
def bare() -> Dataset:
    return open_dataset("digits", spec_of().data.splits, is_labelled=False)


class TestWithoutLabels:
    """A job that reads none: no floor, no student alone, and a judge that there has to be."""

    def spec(self, *, weights: str = "untrained", **changes: object) -> JobSpec:
        teachers = [{"model": "test_resnet", "weights": weights}]
        return spec_of(teachers=teachers, data={"labels": "none"}, **changes)

    def test_the_teacher_is_not_asked(self, bare: Dataset) -> None:
        """A random one would fall below the floor."""
        found = run(self.spec(floor_accuracy=0.9), bare)
        assert (found.majority_rate, found.floor_accuracy, found.teacher_accuracy) == (None, None, None)
        assert any("reads no labels" in note for note in found.notes)
        assert set(KINDS) - set(found.seconds_per_step) == {"student_alone"}

    @pytest.mark.parametrize(
        ("space", "where", "name", "code"),
        [
            ({"logit_losses": [["dkd"]]}, "logit_losses", "dkd", "methods_do_not_combine"),
            ({"feature_losses": [["ega"]]}, "feature_losses", "ega", "methods_do_not_combine"),
            ({"temperature_rules": ["dts"]}, "temperature_rules.0", "dts", "labels_needed"),
        ],
    )
    def test_a_method_that_needs_labels_is_named(
        self, bare: Dataset, space: dict[str, object], where: str, name: str, code: str
    ) -> None:
        with pytest.raises(SearchProblem, match=f"search.space.{where}: .*'{name}' needs labels") as caught:
            run(self.spec(search={"space": space}), bare)
        assert caught.value.code == code

    def test_a_set_that_needs_them_is_passed_over(self, bare: Dataset) -> None:
        found = run(self.spec(search={"space": {"logit_losses": [["kd"], ["dkd"]]}}), bare)
        assert any(
            "logit_losses.1 is passed over: logit loss 'dkd' needs labels" in note for note in found.notes
        )

    def test_a_random_classifier_does_not_judge(self, bare: Dataset) -> None:
        """timm's own weights of this model tell 1000 classes apart."""
        with pytest.raises(SearchProblem, match="1000 classes apart and the data have 10") as caught:
            run(self.spec(weights="pretrained"), bare)
        assert caught.value.code == "teacher_check_failed"
        found = run(self.spec(weights="pretrained", search={"space": EMBEDDINGS}), bare)
        assert any("KD learn nothing" in note for note in found.notes)

    @pytest.mark.parametrize(
        ("feature_losses", "is_noted"),
        [([["tintem"]], True), ([["r2kd"], []], True), ([["r2kd"], ["ltd", "rkd"]], False)],
    )
    def test_a_classifier_that_nothing_trains_is_noted_where_it_judges(
        self, bare: Dataset, feature_losses: list[list[str]], is_noted: bool
    ) -> None:
        space = {"logit_losses": [[]], "feature_losses": feature_losses}
        for meta_loss, is_judge in (("teacher_logits", True), ("auto", False)):
            spec = self.spec(search={"space": space, "process": {"meta_loss": meta_loss}})
            notes = [*untrained_judges(spec, cards_for(spec))]
            assert bool(notes) == (is_judge and is_noted)
        assert not [*untrained_judges(self.spec(), cards_for(self.spec()))]

    def test_embeddings_are_judged_in_pairs(self, bare: Dataset) -> None:
        spec = self.spec(
            search={"space": EMBEDDINGS, "process": {"meta_batch_size": 7}},
            training={"batch_size": 32, "accumulate_parts": 4},
        )
        with pytest.raises(SearchProblem, match="at least 8") as caught:
            run(spec, bare)
        assert caught.value.code == "dataset_too_small"
