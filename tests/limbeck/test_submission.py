from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.submission import UnreadableSpec, apply_setting, parse_spec, read_spec, spec_document
from search.spec import JobSpec


class TestShortForms:
    def test_names_stand_for_models_and_data(self) -> None:
        document = spec_document(teacher="a", student="b", data="digits", budget={"trials": 4})

        assert document == {
            "teachers": [{"model": "a"}],
            "student": {"model": "b"},
            "data": {"name": "digits"},
            "budget": {"trials": 4},
        }
        JobSpec.model_validate(document)

    def test_mappings_are_taken_as_they_are(self) -> None:
        teacher = {"model": "a", "weights": "pretrained"}

        assert spec_document(teacher=teacher, student={"model": "b"})["teachers"] == [teacher]

    def test_what_is_named_goes_over_the_spec_and_leaves_the_rest(self) -> None:
        spec = {"budget": {"trials": 9, "epochs_per_trial": 5}, "student": {"model": "b"}, "name": "x"}
        document = spec_document(spec, budget={"trials": 4}, parts={"name": "y"})

        assert document["budget"] == {"trials": 4, "epochs_per_trial": 5}
        assert (document["student"], document["name"]) == ({"model": "b"}, "y")
        assert spec["budget"] == {"trials": 9, "epochs_per_trial": 5}

    def test_a_job_spec_is_sent_without_its_defaults(self) -> None:
        spec = JobSpec.model_validate({"teachers": [{"model": "a"}], "student": {"model": "b"}})

        assert spec_document(spec) == {"teachers": [{"model": "a"}], "student": {"model": "b"}}


class TestFiles:
    def test_yaml_means_what_people_mean(self) -> None:
        document = parse_spec("training: {learning_rate: 3e-3}\ntransfer: off\nname: 2026-01-01\n", name="x")

        assert document == {"training": {"learning_rate": 0.003}, "transfer": "off", "name": "2026-01-01"}

    def test_json_is_yaml(self, tmp_path: Path) -> None:
        path = tmp_path / "job.json"
        path.write_text('{"student": {"model": "b"}, "floor_accuracy": null, "x": [1, 1.5, true]}')

        assert read_spec(path) == {"student": {"model": "b"}, "floor_accuracy": None, "x": [1, 1.5, True]}

    @pytest.mark.parametrize(
        ("text", "words"),
        [("a: [1", "line 1"), ("- a", "no job spec"), ("", "no job spec"), ("3", "no job spec")],
    )
    def test_what_cannot_be_read_is_said_with_its_place(self, text: str, words: str) -> None:
        with pytest.raises(UnreadableSpec, match=words):
            parse_spec(text, name="job.yaml")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(UnreadableSpec, match="No such file"):
            read_spec(tmp_path / "none.yaml")

    def test_nothing_is_executed(self) -> None:
        with pytest.raises(UnreadableSpec):
            parse_spec("name: !!python/object/apply:os.getcwd []", name="job.yaml")


class TestSettings:
    @pytest.mark.parametrize(
        ("setting", "expected"),
        [
            ("budget.trials=4", {"budget": {"trials": 4}, "teachers": [{"model": "a"}]}),
            ("teachers.0.weights=pretrained", {"teachers": [{"model": "a", "weights": "pretrained"}]}),
            ("proof.seeds=[0, 1]", {"proof": {"seeds": [0, 1]}, "teachers": [{"model": "a"}]}),
            ("name=a=b", {"name": "a=b", "teachers": [{"model": "a"}]}),
            ("floor_accuracy=0.0", {"floor_accuracy": 0.0, "teachers": [{"model": "a"}]}),
        ],
    )
    def test_a_setting_reaches_its_field(self, setting: str, expected: dict[str, object]) -> None:
        document: dict[str, object] = {"teachers": [{"model": "a"}]}
        apply_setting(document, setting)

        assert document == expected

    @pytest.mark.parametrize(
        "setting", ["trials", "=4", "name.x=1", "teachers.1.model=b", "teachers.x=b", "a=[1"]
    )
    def test_what_is_no_setting_is_refused(self, setting: str) -> None:
        with pytest.raises(UnreadableSpec):
            apply_setting({"teachers": [{"model": "a"}], "name": "x"}, setting)
