"""`--set`: paths into the spec, values of every type, and what is said of a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.commands.options import SharedOptions, checked_spec
from search.commands.overrides import override
from search.problems import SearchProblem
from search.recipe import Recipe
from search.registry import load_everything
from search.spec import ARMS, JobSpec

load_everything()


def spec_with(*assignments: str, **options: Any) -> JobSpec:
    options = {"teacher": "test_resnet", "student": "test_vit", "settings": list(assignments), **options}
    return SharedOptions(**options).spec(None)


def said_of(*assignments: str, **options: Any) -> str:
    with pytest.raises(SearchProblem) as caught:
        spec_with(*assignments, **options)
    assert caught.value.code in ("spec_invalid", "unknown_method")
    return caught.value.message


@pytest.mark.parametrize(
    ("assignment", "read", "value"),
    [
        ("training.learning_rate=0.01", lambda spec: spec.training.learning_rate, 0.01),
        ("training.learning_rate=1e-3", lambda spec: spec.training.learning_rate, 1e-3),
        ("training.nesterov=false", lambda spec: spec.training.nesterov, False),
        ("training.optimizer=sgd", lambda spec: spec.training.optimizer, "sgd"),
        ("search.strategy=random", lambda spec: spec.search.strategy, "random"),
        ("search.process.meta_batch_size=16", lambda spec: spec.search.process.meta_batch_size, 16),
        ("budget.wall_seconds=null", lambda spec: spec.budget.wall_seconds, None),
        ("teachers.0.training.epochs=3", lambda spec: spec.teacher.training.epochs, 3),
        (
            'search.space.connections=["last", [[0, 1]]]',
            lambda spec: spec.search.space.connections,
            ["last", [[0, 1]]],
        ),
        ("data.splits.train=100", lambda spec: spec.data.splits.train, 100),
        ("name=a=b", lambda spec: spec.name, "a=b"),
    ],
)
def test_any_field_of_the_spec(assignment: str, read: Any, value: object) -> None:
    assert read(spec_with(assignment)) == value


def test_the_last_one_wins_also_over_named_options() -> None:
    spec = spec_with("proof.epochs=3", "proof.epochs=4", epochs=2)
    assert (spec.proof.epochs, spec.budget.epochs_per_trial) == (4, 2)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("training.learning_rat=0.01", ["training.learning_rat", "did you mean 'learning_rate'?"]),
        ("traning.learning_rate=0.01", ["traning", "did you mean 'training' or"]),
        ("learning_rate=0.01", ["it belongs at", "training.learning_rate"]),
        ("training.learning_rate=fast", ["must be a number, found the text 'fast'"]),
        ("training.optimizer=adm", ["did you mean 'adam' or 'adamw'?"]),
        ("training=5", ["training: must be an object"]),
        ("training.learning_rate", ["write --set field=value"]),
        ("=5", ["write --set field=value"]),
        ("training..learning_rate=5", ["write --set field=value"]),
        ("teachers.1.model=x", ["teachers is a list: name one of its places by a number from 0 to 0"]),
        ("teachers.first.model=x", ["teachers is a list"]),
        ("student.model.size=3", ["student.model has no parts"]),
        ("search.space.connections=same_depth", ['give a list, such as ["same_depth"]']),
        ('search.space.distances=[["msee"]]', ["unknown distance 'msee'", "did you mean 'mse'"]),
        ("search.strategy=tpo", ["unknown strategy 'tpo'", "python -m search"]),
    ],
)
def test_a_mistake_is_named_with_its_remedy(assignment: str, words: list[str]) -> None:
    message = said_of(assignment)
    assert all(word in message for word in words), message


def test_several_mistakes_are_all_named() -> None:
    message = said_of("training.learning_rate=fast", "budget.trials=0")
    assert "training.learning_rate" in message
    assert "budget.trials" in message


def test_a_document_keeps_what_is_not_set() -> None:
    document = {"budget": {"trials": 3}}
    override(document, ["budget.epochs_per_trial=2", "proof.seeds=[0, 1]"])
    assert document == {"budget": {"trials": 3, "epochs_per_trial": 2}, "proof": {"seeds": [0, 1]}}


def test_a_spec_of_registered_methods_passes() -> None:
    document = {"teachers": [{"model": "test_resnet"}], "student": {"model": "test_vit"}}
    assert checked_spec(document).teacher.model == "test_resnet"


def test_methods_that_cannot_be_used_are_refused_before_anything_is_trained() -> None:
    crd = ('search.space.feature_losses=[["crd"]]', "training.mixup_alpha=0.2")
    with pytest.raises(SearchProblem, match=r"feature loss 'crd'.*mixup and CutMix.*mixup_alpha") as caught:
        spec_with(*crd)
    assert caught.value.code == "methods_do_not_combine"
    spec_with(crd[0])


class TestRecipesOfOtherLabels:
    """A recipe's labels stay with other data; its arms follow where labels change."""

    LABEL_FREE = ("teachers.0.weights=untrained", "data.labels=none")
    SOME_ARMS = 'proof.arms=["tuned_kd", "longer_kd", "searched"]'

    @staticmethod
    def again(spec: JobSpec, *assignments: str, **options: Any) -> JobSpec:
        """The spec of a command with a recipe of that job."""
        recipe = Recipe.model_construct(spec=spec)
        return SharedOptions(settings=list(assignments), **options).spec(recipe)

    def test_a_recipe_without_labels_on_other_data(self, tmp_path: Path) -> None:
        spec = spec_with(*self.LABEL_FREE)
        (tmp_path / "photos").mkdir()
        other = self.again(spec, data=str(tmp_path / "photos"))
        assert (other.data.name, other.data.labels) == ("photos", "none")
        assert other.proof.arms == spec.proof.arms

    def test_the_same_with_labels_gets_the_arm_that_needs_them(self) -> None:
        assert self.again(spec_with(*self.LABEL_FREE), "data.labels=given").proof.arms == list(ARMS)
        fewer = spec_with(*self.LABEL_FREE, self.SOME_ARMS)
        expected = ["student_alone", "tuned_kd", "longer_kd", "searched"]
        assert self.again(fewer, "data.labels=given").proof.arms == expected

    def test_a_recipe_with_labels_loses_it_without(self) -> None:
        spec = spec_with(self.LABEL_FREE[0])
        assert self.again(spec, "data.labels=none").proof.arms == [
            arm for arm in ARMS if arm != "student_alone"
        ]

    def test_arms_that_were_asked_for_are_checked(self) -> None:
        spec = spec_with(self.LABEL_FREE[0])
        with pytest.raises(SearchProblem, match="no student_alone without labels"):
            self.again(spec, "data.labels=none", 'proof.arms=["student_alone", "tuned_kd", "searched"]')

    def test_arms_stay_where_labels_do(self) -> None:
        fewer = spec_with(*self.LABEL_FREE, self.SOME_ARMS)
        assert self.again(fewer, "training.learning_rate=0.01").proof.arms == fewer.proof.arms
