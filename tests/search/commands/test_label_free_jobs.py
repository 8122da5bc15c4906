"""Whole jobs that read no labels, on real digits: with any labels the same students, to the bit."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from search import find, proof
from search.commands import distilling
from search.commands.local_job import LocalJob
from search.commands.report_table import report_table
from search.plan import teacher_proposal
from search.recipe import Recipe
from search.records import StageName, TrialRecord, TrialState
from search.registry import load_everything
from search.spec import JobSpec
from tests.search.commands.command_runner import invoke
from tests.search.data.written import digits, write_idx

SPLITS = {"train": 96, "meta": 32, "validation": 32}
EMBEDDINGS = {
    "connections": ["none"],
    "logit_losses": [[]],
    "feature_losses": [["tintem"], ["tintem", "rkd"]],
}
NEVER_THE_SAME = ("seconds", "cache_seconds", "without_labels")
FIGURES = ("knn_accuracy", "linear_probe_accuracy", "out_of_distribution_auroc")


@dataclass(frozen=True)
class Data:
    """The same digits twice, once with labels that mean nothing; and a teacher of the first."""

    root: Path

    @property
    def teacher(self) -> Path:
        return self.root / "teacher.safetensors"

    def tables(self, name: str) -> Path:
        return self.root / f"{name}.toml"

    def spec(self, space: Mapping[str, Any]) -> JobSpec:
        return JobSpec.model_validate(
            {
                "teachers": [{"model": "test_resnet", "weights": str(self.teacher)}],
                "student": {"model": "resnet8_w8"},
                "data": {"name": "numerals", "splits": SPLITS, "labels": "none"},
                "training": {"batch_size": 32, "learning_rate": 0.01},
                "search": {"space": space},
                # One temperature: how many settings are tried depends on the clock.
                "tuning": {"temperature": {"low": 4.0, "high": 4.0}},
                "budget": {"trials": 2, "epochs_per_trial": 1},
                "proof": {"seeds": [0, 1], "arms": ["plain_kd", "tuned_kd", "searched"]},
            }
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    load_everything()
    root = tmp_path_factory.mktemp("digits")
    images, labels = digits(0, 224)
    garbled = np.random.default_rng(0).permutation(labels).tolist()
    for name, given in (("right", labels), ("wrong", garbled)):
        parts = {"train": (images[:160], given[:160]), "test": (images[160:], given[160:])}
        write_idx(root / name, parts)
        (root / f"{name}.toml").write_text(f'[datasets.numerals]\nkind = "idx"\npath = "{name}"\n')
    document = {
        "teachers": [{"model": "test_resnet", "training": {"epochs": 12, "batch_size": 32}}],
        "student": {"model": "resnet8_w8"},
        "data": {"name": "numerals", "splits": SPLITS},
        "training": {"batch_size": 32},
    }
    job = LocalJob(JobSpec.model_validate(document), root / "job", datasets_file=root / "right.toml")
    proposal = teacher_proposal(job.spec)
    assert job.trial(proposal).state is TrialState.COMPLETED
    file = job.directory / "trials" / str(proposal.key) / "teacher.safetensors"
    file.rename(root / "teacher.safetensors")
    return Data(root)


@dataclass(frozen=True)
class Ended:
    """A job that was run to its end."""

    job: LocalJob
    report: dict[str, Any]

    @property
    def compared(self) -> dict[str, Any]:
        """What every trial did, without its times and without what is only reported."""
        return {
            str(record.key): _without_times(record)
            for record in self.job.records
            if record.key.stage in (StageName.SEARCH, StageName.PROOF)
        }


def _without_times(record: TrialRecord) -> tuple[Any, ...]:
    result = {name: value for name, value in (record.result or {}).items() if name not in NEVER_THE_SAME}
    return record.state, record.parameters, result, record.curve, record.error


def run(data: Data, directory: Path, *, space: Mapping[str, Any], labels: str) -> Ended:
    job = LocalJob(data.spec(space), directory, datasets_file=data.tables(labels))
    report = job.run()
    assert report is not None
    return Ended(job, report)


@pytest.fixture(scope="module", params=["logits", "embeddings"])
def twice(
    request: pytest.FixtureRequest, data: Data, tmp_path_factory: pytest.TempPathFactory
) -> list[Ended]:
    """The job with right labels and with wrong ones."""
    space = EMBEDDINGS if request.param == "embeddings" else {"connections": ["last"]}
    root = tmp_path_factory.mktemp(request.param)
    return [run(data, root / labels, space=space, labels=labels) for labels in ("right", "wrong")]


def test_no_label_is_read(twice: list[Ended]) -> None:
    right, wrong = twice
    assert right.compared == wrong.compared
    hashes = {(record.result or {}).get("student_sha256") for record in right.job.records}
    assert len(hashes) > 5


def test_every_process_leaves_cross_entropy_out(twice: list[Ended]) -> None:
    runs = [record.parameters["process"] for record in twice[0].job.records if "process" in record.parameters]
    assert all(process["cross_entropy_weight"] == 0 for process in runs)
    teacher = next(record for record in twice[0].job.records if record.key.stage is StageName.TEACHER)
    assert (teacher.result or {})["accuracy"] is None
    assert any("reads no labels" in note for note in twice[0].report["notes"])


def test_labels_of_the_data_are_in_the_report_only(twice: list[Ended]) -> None:
    """Right labels can be told from embeddings, wrong ones cannot; what needs no label is the same."""
    right, wrong = (ended.report["without_labels"]["rows"] for ended in twice)
    assert [row["label"] for row in right] == ["Teacher", "Plain KD", "Tuned KD", "Searched process"]
    for one, other in zip(right, wrong, strict=True):
        assert one["out_of_distribution_auroc"] == other["out_of_distribution_auroc"]
        assert one["neighbour_agreement"] == other["neighbour_agreement"]
    assert right[0]["knn_accuracy"] > 0.6 > 0.3 > wrong[0]["knn_accuracy"]
    assert right[0]["linear_probe_accuracy"] > 0.6 > 0.3 > wrong[0]["linear_probe_accuracy"]
    assert right[0]["out_of_distribution_auroc"] > 0.8


def test_the_figure_is_the_share_that_agrees_with_the_teacher(twice: list[Ended]) -> None:
    for record in twice[0].job.records:
        if record.key.stage is not StageName.PROOF:
            continue
        result = record.result or {}
        beside = result["without_labels"]
        judged = (
            result["agreement"]
            if beside["judged_by"] == "teacher_agreement"
            else beside["neighbour_agreement"]
        )
        assert result["accuracy"] == judged
        assert result["expected_calibration_error"] is None


def test_the_table_says_what_was_counted(twice: list[Ended]) -> None:
    report = twice[0].report
    written = io.StringIO()
    Console(file=written, width=200).print(report_table(report))
    shown = written.getvalue()
    without = report["without_labels"]
    assert f"Proof: test {without['judged_in_words']} in %" in shown
    assert without["sentence"] in " ".join(shown.split())
    for row in without["rows"]:
        figures = [row[name] for name in FIGURES]
        assert all(f"{100 * figure:.2f}" in shown for figure in figures)


def test_the_recipe_records_it(twice: list[Ended]) -> None:
    export = twice[0].job.directory / "trials" / "export-export-0-0"
    recipe = Recipe.model_validate_json((export / "recipe.json").read_text())
    assert recipe.spec.data.labels == "none"
    assert recipe.process.cross_entropy_weight == 0
    assert recipe.evidence["without_labels"] == twice[0].report["without_labels"]


QUICK = ("--student=resnet8_w8", "--teacher=test_resnet", "--epochs=1", "--max-steps=2", "--threads=1")
WITHOUT = (
    "--set=data.labels=none",
    f"--set=data.splits={json.dumps(SPLITS)}",
    "--set=training.batch_size=32",
)


def command_of(data: Data) -> list[str]:
    given = [
        f"--teacher-weights={data.teacher}",
        f"--datasets-file={data.tables('right')}",
        "--data=numerals",
    ]
    return [*QUICK, *WITHOUT, *given]


def test_the_commands_take_it(data: Data, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = invoke(find.main, *command_of(data), f"--out={found}")
    assert done.exit_code == 0, done.output
    assert "validation agreement with the teacher" in done.output
    assert Recipe.model_validate_json(found.read_text()).spec.data.labels == "none"
    again = invoke(
        distilling.main, f"--recipe={found}", *command_of(data)[2:], f"--out={tmp_path / 'student'}"
    )
    assert again.exit_code == 0, again.output
    assert "test agreement with the teacher" in again.output
    result = json.loads((tmp_path / "student" / "result.json").read_text())
    assert result["without_labels"]["judged_by"] == "teacher_agreement"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arms=student_alone,tuned_kd,searched"], ["no student_alone without labels", "leave"]),
        (["--set=teachers.0.weights=train"], ["needs labels", "weights file"]),
        (['--set=search.space.logit_losses=[["dkd"]]'], ["'dkd' needs labels"]),
        (["--set=data.out_of_distribution=flowers"], ["unknown data set 'flowers'"]),
    ],
)
def test_a_mistake_is_named_with_its_remedy(
    data: Data, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    done = invoke(proof.main, *command_of(data), f"--out={tmp_path / 'out'}", *arguments)
    assert done.exit_code == 2
    assert all(word in " ".join(done.output.split()) for word in words), done.output


def test_images_out_of_distribution_may_be_another_data_sets(data: Data, tmp_path: Path) -> None:
    """The built-in digits are no strangers to a teacher of digits; shuffled pixels are."""
    spec = data.spec({"connections": ["none"]})
    named = spec.data.model_copy(update={"out_of_distribution": "digits"})
    budget = spec.budget.model_copy(update={"trials": 1})
    job = LocalJob(
        spec.model_copy(update={"data": named, "budget": budget}),
        tmp_path,
        datasets_file=data.tables("right"),
        max_steps=1,
    )
    report = job.run()
    assert report is not None
    assert report["without_labels"]["out_of_distribution"] == "digits"
    assert 0.3 < report["without_labels"]["rows"][0]["out_of_distribution_auroc"] < 0.8
