"""`python -m search.proof` on real digits: all arms, a given recipe, going on after an end, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from search import proof
from search.commands.job_file import JobFile
from search.recipe import Recipe
from search.records import StageName
from search.spec import ARMS
from tests.search.commands.command_runner import invoke

PAIR = ("--teacher=test_resnet", "--student=test_efficientnet", "--train-teacher=1")
QUICK = ("--epochs=1", "--trials=1", "--seeds=2", "--max-steps=3", "--threads=1")


@dataclass(frozen=True)
class Proved:
    """A proof that was run to its end, and what it printed."""

    out: Path
    printed: str

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "report.json").read_text())
        return found

    @property
    def job(self) -> JobFile:
        return JobFile.model_validate_json((self.out / "job" / "job.json").read_bytes())


def prove(out: Path, *arguments: str) -> Proved:
    done = invoke(proof.main, *PAIR, *QUICK, f"--out={out}", *arguments)
    assert done.exit_code == 0, done.output
    return Proved(out, done.output)


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Proved:
    return prove(tmp_path_factory.mktemp("proof") / "out")


def test_every_arm_is_trained_with_every_seed(proved: Proved) -> None:
    assert [arm["arm"] for arm in proved.report["arms"]] == list(ARMS)
    for arm in proved.report["arms"]:
        assert [run["seed"] for run in arm["runs"]] == [0, 1]
        assert arm["failed"] is None
        assert arm["training_device_seconds"] > 0


def test_the_table_the_candidates_and_the_verdict_are_printed(proved: Proved) -> None:
    report = proved.report
    for arm in report["arms"]:
        assert arm["label"] in proved.printed
        assert f"{100 * arm['mean']:.2f} ± {100 * arm['standard_deviation']:.2f}" in proved.printed
    assert len(report["replays"]) >= 1
    for one in report["replays"]:
        assert one["arm"].replace("_", " ") in proved.printed
    for sentence in (report["verdict"]["sentence"], report["verdict"]["longer_sentence"]):
        assert " ".join(sentence.split()[:6]) in proved.printed


def test_recipe_and_student_are_written(proved: Proved) -> None:
    recipe = Recipe.model_validate_json((proved.out / "recipe.json").read_text())
    assert recipe.arm == proved.report["verdict"]["proof_arm"]
    assert recipe.evidence == proved.report
    assert (proved.out / "student.safetensors").stat().st_size > 1000


def test_the_same_command_again_trains_nothing(proved: Proved) -> None:
    before = proved.report
    again = prove(proved.out)
    assert again.report == before
    assert "proof: " not in again.printed


def test_it_goes_on_from_what_was_done(proved: Proved, tmp_path: Path) -> None:
    """Without the last arms of the second seed the same runs are made again, to the bit."""
    before = proved.job
    later = {trial.key for trial in before.trials() if trial.key.stage is StageName.PROOF and trial.key.seed}
    kept = [
        trial
        for trial in before.trials()
        if trial.key not in later and trial.key.stage is not StageName.EXPORT
    ]
    before.write(proved.out / "job" / "job.json", kept, 12.0)
    again = prove(proved.out)
    results = [
        {trial.key: (trial.result or {}).get("student_sha256") for trial in job.trials()}
        for job in (before, again.job)
    ]
    assert results[0] == results[1]
    assert again.printed.count("done  proof: ") == len(later)


def test_another_job_does_not_go_on_from_there(proved: Proved) -> None:
    done = invoke(proof.main, *PAIR, *QUICK, f"--out={proved.out}", "--set=training.learning_rate=0.5")
    assert done.exit_code == 2
    assert "job_differs" in done.output
    assert "spec.training.learning_rate is 0.003 there" in done.output


def test_broken_records_are_named(proved: Proved, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job.json").write_text('{"identity": {}, "records": [{"key"')
    done = invoke(proof.main, *PAIR, *QUICK, f"--out={tmp_path}")
    assert done.exit_code == 2
    assert "job_unreadable" in done.output
    assert "remove it" in done.output


def test_a_recipe_is_proved_without_a_search(proved: Proved, tmp_path: Path) -> None:
    recipe = json.loads((proved.out / "recipe.json").read_text())
    recipe |= {"arm": "searched", "process": proved.report["process"]}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    arms = ["student_alone", "tuned_kd", "uniform", "searched"]
    listed = f"--arms={','.join(arms).replace('tuned_kd', 'tuned-kd')}"
    given = prove(tmp_path / "out", f"--recipe={tmp_path / 'recipe.json'}", listed)
    assert given.report["trials"]["search"] == 0
    costs = {arm["arm"]: arm["search_device_seconds"] for arm in proved.report["arms"]}
    found_in = costs["searched"]
    assert given.report["device_seconds"]["tuning"] >= found_in > 0
    assert [arm["arm"] for arm in given.report["arms"]] == arms
    searched = next(arm for arm in given.report["arms"] if arm["arm"] == "searched")
    before = next(arm for arm in proved.report["arms"] if arm["arm"] == "searched")
    assert [run["accuracy"] for run in searched["runs"]] == [run["accuracy"] for run in before["runs"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arms=student_alone,tuned_kd,serched"], ["'serched' is no arm", "did you mean 'searched'?"]),
        (["--arms=searched"], ["arms must contain student_alone, tuned_kd"]),
        (["--seeds=1"], ["--seeds", "greater than or equal to 2"]),
        (["--set=budget.trails=2"], ["budget.trails", "did you mean 'trials'?"]),
        (["--set=search.space.connections=[[[0, 99]]]"], ["pathway_does_not_fit", "stage 99 of the student"]),
    ],
)
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    done = invoke(proof.main, *PAIR, *QUICK, f"--out={tmp_path / 'out'}", *arguments)
    assert done.exit_code == 2
    assert all(word in done.output for word in words), done.output


def test_ctrl_c_ends_with_130_and_what_was_done_is_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "search.proof", *PAIR, *QUICK, f"--out={tmp_path / 'out'}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    records = tmp_path / "out" / "job" / "job.json"
    try:
        deadline = time.monotonic() + 240
        while not records.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, printed
    assert "the same command goes on" in printed
    assert "Traceback" not in printed
    kept = JobFile.model_validate_json(records.read_bytes()).trials()
    assert kept[0].key.stage is StageName.TEACHER
