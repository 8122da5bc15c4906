"""`python -m search.find` and `python -m search.distill` as their users type them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from search.recipe import Recipe

PAIR = ["--teacher", "test_resnet", "--student", "test_efficientnet"]


def run(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, timeout=300, cwd=cwd
    )


def test_find_then_distill_by_what_was_found(tmp_path: Path) -> None:
    found = run(
        "search.find",
        *PAIR,
        "--train-teacher=1",
        "--epochs=1",
        "--trials=2",
        "--max-steps=4",
        "--threads=1",
        cwd=tmp_path,
    )
    assert found.returncode == 0, found.stderr
    recipe = Recipe.model_validate_json((tmp_path / "found.json").read_text())
    trials = [trial["key"] for trial in recipe.evidence["trials"]]  # type: ignore[index,union-attr]
    assert sum(key.startswith("search-searched") for key in trials) == 2
    assert recipe.process.pathways
    done = run("search.distill", "--recipe", "found.json", "--max-steps=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "distilled" / "result.json").read_text())
    assert (result["arm"], result["steps"], result["images"]) == ("searched", 3, 256)
    assert (tmp_path / "distilled" / "student.safetensors").is_file()
    again = run(
        "search.distill",
        "--recipe=found.json",
        "--max-steps=3",
        "--teacher-weights",
        str(tmp_path / "distilled" / "teacher.safetensors"),
        "--out=again",
        cwd=tmp_path,
    )
    assert again.returncode == 0, again.stderr
    repeated = json.loads((tmp_path / "again" / "result.json").read_text())
    assert repeated["student_sha256"] == result["student_sha256"]


def test_an_untrained_teacher_is_warned_of(tmp_path: Path) -> None:
    done = run("search.distill", *PAIR, "--untrained-teacher", "--max-steps=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "untrained" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--teacher=test_resnet"], ["student", "--student"]),
        ([*PAIR, "--teacher=test_resnett"], ["unknown_model", "test_resnet"]),
        ([*PAIR, "--data=digitz"], ["unknown_dataset", "digits"]),
        ([*PAIR, "--recipe=nowhere.json"], ["recipe_unreadable", "nowhere.json"]),
        ([*PAIR, "--untrained-teacher", "--train-teacher=3"], ["spec_invalid", "only one of"]),
        ([*PAIR, "--teacher-weights=nowhere.safetensors"], ["weights_not_found", "nowhere.safetensors"]),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, arguments: list[str], said: list[str]) -> None:
    done = run("search.distill", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert all(word in done.stderr for word in said), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "distilled").exists()


def test_the_library_lists_what_it_can_do(tmp_path: Path) -> None:
    listed = run("search", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert all(
        word in listed.stdout for word in ("search.find", "projection", "attention", "softplus", "tpe")
    )


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run("search.distill", *PAIR, "--device=cuda:77", "--max-steps=1", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "device_unavailable" in done.stderr
    assert "cuda:77" in done.stderr
