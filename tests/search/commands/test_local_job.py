"""A whole job without any service: its exported student and its recipe keep their word, to the bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from scipy import stats

from search.commands.local_job import LocalJob
from search.data import open_dataset
from search.recipe import Recipe
from search.records import StageName, TrialState
from search.spec import ARMS, JobSpec, Splits

SPEC = {
    "teachers": [{"model": "test_resnet", "training": {"epochs": 8}}],
    "student": {"model": "test_mambaout"},
    "training": {"learning_rate": 0.01},
    "budget": {"trials": 2, "epochs_per_trial": 2},
    "proof": {"seeds": [0, 1], "arms": list(ARMS)},
}


class Finished:
    """A job that was run to its end, and where its files lie."""

    def __init__(self, directory: Path, document: dict[str, Any]) -> None:
        self.spec = JobSpec.model_validate(document)
        self.job = LocalJob(self.spec, directory)
        report = self.job.run()
        assert report is not None
        self.report = report
        self.export = directory / "trials" / "export-export-0-0"
        self.recipe_file = self.export / "recipe.json"
        self.student_file = self.export / "student.safetensors"

    def proof_result(self, arm: str, seed: int) -> dict[str, Any]:
        for record in self.job.records:
            if (record.key.stage, record.key.arm, record.key.seed) == (StageName.PROOF, arm, seed):
                assert record.result is not None
                return record.result
        raise LookupError(arm)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("job"), SPEC)


def distil_again(recipe: Path, out: Path, *, seed: int, max_steps: int | None = None) -> dict[str, Any]:
    command = [sys.executable, "-m", "search.distill", "--recipe", str(recipe), "--seed", str(seed)]
    command += ["--out", str(out)] + (["--max-steps", str(max_steps)] if max_steps else [])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def test_every_arm_ran_with_every_seed(finished: Finished) -> None:
    assert {arm["arm"] for arm in finished.report["arms"]} == set(ARMS)
    assert all(len(arm["runs"]) == 2 for arm in finished.report["arms"])
    assert all(record.state != TrialState.FAILED for record in finished.job.records)
    assert finished.report["verdict"]["sentence"]


def test_plain_timm_loads_the_student_and_reaches_the_reported_accuracy(finished: Finished) -> None:
    recipe = Recipe.model_validate_json(finished.recipe_file.read_text())
    student = timm.create_model(
        "test_mambaout", num_classes=10, in_chans=1, checkpoint_path=str(finished.student_file)
    ).eval()
    with safe_open(finished.student_file, framework="pt") as file:
        preprocessing = file.metadata()
    mean_, std = (float(json.loads(preprocessing[name])[0]) for name in ("mean", "std"))
    test = open_dataset("digits", Splits()).splits["test"]
    torch.set_num_threads(1)
    with torch.inference_mode():
        answers = student((test.images.float() / 255 - mean_) / std).argmax(dim=1)
    accuracy = int((answers == test.labels).sum()) / len(test.labels)
    seed = finished.spec.proof.seeds[0]
    assert accuracy == finished.proof_result(recipe.arm, seed)["accuracy"]
    arm = next(arm for arm in finished.report["arms"] if arm["arm"] == recipe.arm)
    assert accuracy == next(run["accuracy"] for run in arm["runs"] if run["seed"] == seed)


def test_the_recipe_reproduces_a_proof_run_exactly(finished: Finished, tmp_path: Path) -> None:
    recipe = Recipe.model_validate_json(finished.recipe_file.read_text())
    for seed in finished.spec.proof.seeds:
        again = distil_again(finished.recipe_file, tmp_path / str(seed), seed=seed)
        proved = finished.proof_result(recipe.arm, seed)
        assert again["accuracy"] == proved["accuracy"]
        assert again["student_sha256"] == proved["student_sha256"]


def test_fewer_steps_are_judged_on_few_images(finished: Finished, tmp_path: Path) -> None:
    found = distil_again(finished.recipe_file, tmp_path / "few", seed=0, max_steps=3)
    assert (found["steps"], found["images"]) == (3, 256)


@pytest.mark.slow
def test_a_new_seed_lies_in_the_prediction_interval_of_five_proof_seeds(tmp_path: Path) -> None:
    document = {**SPEC, "budget": {"trials": 2, "epochs_per_trial": 12}}
    document["proof"] = {"seeds": [0, 1, 2, 3, 4], "arms": ["student_alone", "tuned_kd", "searched"]}
    (tmp_path / "job").mkdir()
    finished = Finished(tmp_path / "job", document)
    recipe = Recipe.model_validate_json(finished.recipe_file.read_text())
    proved = [finished.proof_result(recipe.arm, seed)["accuracy"] for seed in range(5)]
    new = distil_again(finished.recipe_file, tmp_path / "new", seed=5)
    deviation = max(stdev(proved), 1 / new["images"])
    reach = stats.t.ppf(0.995, df=4) * deviation * (1 + 1 / 5) ** 0.5
    assert abs(new["accuracy"] - mean(proved)) <= reach, f"{new['accuracy']} from {proved}"
