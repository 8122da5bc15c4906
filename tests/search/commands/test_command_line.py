"""`python -m search.find`, `search.distill` and `search.proof` as their users type them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from search import find, proof
from search.commands import distilling
from search.commands.options import SharedOptions
from search.recipe import Recipe
from search.registry import Kind, load_everything, methods
from tests.search.commands.command_runner import invoke

PAIR = ["--teacher", "test_resnet", "--student", "test_efficientnet", "--threads=1"]


def run(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=300, cwd=cwd
    )


def test_find_then_distill_by_what_was_found(tmp_path: Path) -> None:
    quick = ["--train-teacher=1", "--epochs=1", "--trials=2", "--max-steps=4"]
    found = invoke(find.main, *PAIR, *quick, f"--out={tmp_path / 'found.json'}")
    assert found.exit_code == 0, found.output
    recipe = Recipe.model_validate_json((tmp_path / "found.json").read_text())
    trials = [trial["key"] for trial in _evidence(recipe, "trials")]
    assert sum(key.startswith("search-searched") for key in trials) == 2
    assert [one["chosen"] for one in _evidence(recipe, "replays")].count(True) == 1
    assert "validation accuracy" in found.output
    done = run("search.distill", "--recipe", "found.json", "--max-steps=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "distilled" / "result.json").read_text())
    assert (result["arm"], result["steps"], result["images"]) == ("searched", 3, 256)
    assert (tmp_path / "distilled" / "student.safetensors").is_file()
    again = invoke(
        distilling.main,
        f"--recipe={tmp_path / 'found.json'}",
        "--max-steps=3",
        f"--teacher-weights={tmp_path / 'distilled' / 'teacher.safetensors'}",
        f"--out={tmp_path / 'again'}",
    )
    assert again.exit_code == 0, again.output
    repeated = json.loads((tmp_path / "again" / "result.json").read_text())
    assert repeated["student_sha256"] == result["student_sha256"]


def _evidence(recipe: Recipe, name: str) -> list[dict[str, Any]]:
    found = recipe.evidence[name]
    assert isinstance(found, list)
    return [one for one in found if isinstance(one, dict)]


def test_an_untrained_teacher_is_warned_of(tmp_path: Path) -> None:
    done = invoke(distilling.main, *PAIR, "--untrained-teacher", "--max-steps=2", f"--out={tmp_path / 'out'}")
    assert done.exit_code == 0, done.output
    assert "untrained" in done.output


def test_any_field_of_the_spec_can_be_set(tmp_path: Path) -> None:
    done = invoke(
        distilling.main,
        *PAIR,
        "--untrained-teacher",
        "--set=training.batch_size=100",
        "--set=proof.seeds=[7, 8]",
        "--epochs=1",
        f"--out={tmp_path / 'out'}",
    )
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["seed"], result["steps"]) == (7, 800 // 100)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--teacher=test_resnet"], ["student", "--student"]),
        ([*PAIR, "--teacher=test_resnett"], ["unknown_model", "test_resnet"]),
        ([*PAIR, "--student=test_vitt"], ["unknown_model", "did you mean test_vit"]),
        ([*PAIR, "--data=digitz"], ["unknown_dataset", "digits", "--datasets-file"]),
        ([*PAIR, "--data=./flowrs"], ["unknown_dataset", "there is no directory ./flowrs"]),
        ([*PAIR, "--recipe=nowhere.json"], ["recipe_unreadable", "nowhere.json"]),
        ([*PAIR, f"--recipe={__file__}"], ["recipe_invalid", "is not valid JSON"]),
        ([*PAIR, "--untrained-teacher", "--train-teacher=3"], ["spec_invalid", "only one of"]),
        ([*PAIR, "--teacher-weights=nowhere.safetensors"], ["weights_not_found", "nowhere.safetensors"]),
        ([*PAIR, "--set=training.optimiser=sgd"], ["spec_invalid", "did you mean 'optimizer'?"]),
        ([*PAIR, "--teachr=test_resnet"], ["No such option", "--teacher"]),
        ([*PAIR, "--epochs=0"], ["--epochs", "greater than or equal to 1"]),
        ([*PAIR, "--device=cuda:77", "--max-steps=1"], ["device_unavailable", "cuda:77"]),
        ([*PAIR, "--device=gpu", "--max-steps=1"], ["device_unavailable", "gpu"]),
    ],
)
@pytest.mark.parametrize("main", [find.main, distilling.main, proof.main])
def test_a_mistake_is_named_with_its_remedy(
    tmp_path: Path, main: Callable[..., None], arguments: list[str], said: list[str]
) -> None:
    done = invoke(main, *arguments, f"--out={tmp_path / 'out'}")
    assert done.exit_code == 2, done.output
    assert all(word in done.output for word in said), done.output
    assert not (tmp_path / "out" / "report.json").exists()
    assert not (tmp_path / "out").is_file()


@pytest.mark.parametrize("main", [find.main, distilling.main, proof.main])
def test_every_command_shares_its_options_and_says_what_they_do(main: Callable[..., None]) -> None:
    shown = invoke(main, "--help").output
    for field in fields(SharedOptions):
        option = "--set" if field.name == "settings" else f"--{field.name.replace('_', '-')}"
        assert option in shown
    assert "may be repeated" in shown


def test_the_library_lists_what_it_can_do(tmp_path: Path) -> None:
    listed = run("search", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    for command in ("find", "distill", "proof"):
        assert f"python -m search.{command} " in listed.stdout
    load_everything()
    for method in methods():
        assert method.name in listed.stdout
        assert method.kind.value.replace("_", " ") in listed.stdout


def test_the_methods_are_listed_for_programs_with_their_settings(tmp_path: Path) -> None:
    listed = run("search", "methods", "--json", "--kind=logit_loss", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    load_everything()
    found = {method["name"]: method for method in json.loads(listed.stdout)}
    assert set(found) == {method.name for method in methods(Kind.LOGIT_LOSS)}
    assert found["dkd"]["config"]["properties"]["rest_weight"]["search"] == {
        "low": 0.5,
        "high": 16.0,
        "log": True,
    }
    assert found["dkd"]["needs"] == ["labels", "teacher_logits"]
    plain = run("search", "methods", "--kind=distance", cwd=tmp_path).stdout
    assert "hcl" in plain
    assert "dkd" not in plain
