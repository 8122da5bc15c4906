"""The `limbeck` command as users run it: a process, its output, its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.house import free_port
from tests.job_story import STUDENT_BYTES, Story, spec_without_labels
from tests.service.api.conftest import Api
from tests.service.api.server import run_service, running_server

Run = Callable[..., subprocess.CompletedProcess[str]]
TASK = ("--teacher", "test_resnet", "--student", "test_efficientnet", "--data", "digits")


def limbeck(url: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "limbeck.command", *arguments],
        env={**os.environ, "LIMBECK_URL": url, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture
def run(api: Api) -> Run:
    """Runs the command against the shared server."""
    return lambda *arguments, **options: limbeck(api.server.url, *arguments, **options)


class TestSubmit:
    def test_from_options(self, run: Run, api: Api) -> None:
        done = run(
            "submit", *TASK, "--trials", "3", "--epochs", "5", "--seeds", "3", "--set", "name=cli", "--json"
        )
        job = json.loads(done.stdout)

        assert done.returncode == 0
        assert (job["name"], job["spec"]["budget"]["trials"], job["spec"]["proof"]["seeds"]) == (
            "cli",
            3,
            [0, 1, 2],
        )
        assert api.client.get(f"/v1/jobs/{job['id']}").json()["state"] == "queued"

    def test_from_a_file_with_options_over_it(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "job.yaml"
        file.write_text(
            "teachers: [{model: test_resnet}]\nstudent: {model: test_vit}\nbudget: {trials: 9}\n"
            "training: {learning_rate: 3e-3}\n"
        )
        done = run("submit", str(file), "--epochs", "4", "--json")
        spec = json.loads(done.stdout)["spec"]

        assert (spec["student"]["model"], spec["budget"]["trials"], spec["budget"]["epochs_per_trial"]) == (
            "test_vit",
            9,
            4,
        )
        assert spec["training"]["learning_rate"] == 0.003

    def test_from_standard_input(self, run: Run) -> None:
        spec = '{"teachers": [{"model": "test_resnet"}], "student": {"model": "test_vit"}}'
        done = run("submit", "-", input=spec)

        assert (done.returncode, "Submitted job_" in done.stdout) == (0, True)

    def test_a_typo_is_shown_with_field_message_and_remedy(self, run: Run, api: Api) -> None:
        before = api.count_jobs()
        done = run("submit", *TASK, "--set", "budgt.trials=4")

        assert done.returncode == 2
        assert "budgt: unknown field" in done.stderr
        assert "did you mean 'budget'?" in done.stderr
        assert (done.stdout, api.count_jobs()) == ("", before)

    def test_an_unknown_model(self, run: Run) -> None:
        done = run("submit", "--teacher", "test_resnett", "--student", "test_efficientnet")

        assert done.returncode == 2
        assert "teachers.0.model" in done.stderr
        assert "test_resnet" in done.stderr

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((), "FILE"),
            (("none.yaml",), "No such file"),
            ((*TASK, "--set", "x"), "FIELD=VALUE"),
            ((*TASK, "--seeds", "1"), "seeds"),
            ((*TASK, "--nonsense"), "nonsense"),
        ],
    )
    def test_wrong_usage(self, run: Run, arguments: tuple[str, ...], words: str) -> None:
        done = run("submit", *arguments)

        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr


class TestWatching:
    def test_submit_and_wait(self, run: Run, api: Api, story: Story) -> None:
        def tell_when_submitted() -> None:
            ends_at = time.monotonic() + 30
            while time.monotonic() < ends_at:
                if found := api.client.get("/v1/jobs?label.cli=wait").json()["data"]:
                    story.adopt(found[0]["id"])
                    story.tell()
                    break
                time.sleep(0.05)

        teller = threading.Thread(target=tell_when_submitted)
        teller.start()
        done = run("submit", *TASK, "--set", "labels.cli=wait", "--seeds", "3", "--wait")
        teller.join()

        assert done.returncode == 0, done.stderr
        assert "Verdict:" in done.stdout
        assert "search searched" in done.stderr

    def test_watch_ends_with_the_job(self, run: Run, finished: Story) -> None:
        done = run("watch", finished.job_id)

        assert done.returncode == 0
        assert "over tuned KD" in done.stdout
        assert "stopped early" in done.stderr

    def test_watch_as_lines_of_json(self, run: Run, finished: Story) -> None:
        events = [json.loads(line) for line in run("watch", finished.job_id, "--json").stdout.splitlines()]

        assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
        assert events[-1]["kind"] == "job.succeeded"

    def test_a_failed_job_is_a_failure(self, run: Run, story: Story) -> None:
        story.submit()
        story.claim()
        story.fail("teacher_check_failed", "The teacher knows nothing.")

        for arguments in (("watch", story.job_id), ("watch", story.job_id, "--json")):
            done = run(*arguments)
            assert done.returncode == 1
            assert "teacher_check_failed. The teacher knows nothing." in done.stderr

    def test_ctrl_c_leaves_the_job_alone(self, api: Api, story: Story) -> None:
        story.submit()
        story.claim()
        watching = subprocess.Popen(
            [sys.executable, "-m", "limbeck.command", "watch", story.job_id, "--json"],
            env={**os.environ, "LIMBECK_URL": api.server.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["kind"] == "job.queued"
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=20)

        assert watching.returncode == 130
        assert "Traceback" not in errors
        assert api.client.get(f"/v1/jobs/{story.job_id}").json()["state"] == "running"


class TestResults:
    def test_jobs(self, run: Run, finished: Story) -> None:
        table = run("jobs", "--state", "succeeded").stdout
        listed = json.loads(run("jobs", "--label", "purpose=story", "--limit", "100", "--json").stdout)

        assert finished.job_id in table
        assert "searched" in table
        assert finished.job_id in {job["id"] for job in listed}
        assert run("jobs", "--label", "purpose=none").stdout == ""

    def test_report(self, run: Run, finished: Story, api: Api) -> None:
        report = api.client.get(f"/v1/jobs/{finished.job_id}/report").json()
        shown = run("report", finished.job_id).stdout

        assert json.loads(run("report", finished.job_id, "--json").stdout) == report
        assert report["verdict"]["sentence"] in " ".join(shown.split())
        for arm in report["arms"]:
            assert f"{100 * arm['mean']:.2f} ± {100 * arm['standard_deviation']:.2f}" in shown

    def test_report_of_a_job_without_labels(self, run: Run, api: Api) -> None:
        story = Story(api.store, api.artifact_root, spec=spec_without_labels())
        story.submit()
        story.tell()
        shown = " ".join(run("report", story.job_id).stdout.split())
        found = api.client.get(f"/v1/jobs/{story.job_id}/report").json()["without_labels"]
        assert found["sentence"] in shown
        assert "with the teacher in %" in shown
        assert " accuracy in %" not in shown
        for row in found["rows"]:
            figures = [100 * row[name] for name in ("knn_accuracy", "linear_probe_accuracy")]
            assert " ".join(f"{figure:.2f}" for figure in figures) in shown

    def test_no_report_yet(self, run: Run, story: Story) -> None:
        done = run("report", story.submit())

        assert done.returncode == 1
        assert "report_not_ready" in done.stderr

    def test_recipe(self, run: Run, finished: Story, tmp_path: Path) -> None:
        shown = json.loads(run("recipe", finished.job_id).stdout)
        run("recipe", finished.job_id, "-o", str(tmp_path / "recipe.json"))

        assert json.loads((tmp_path / "recipe.json").read_text()) == shown

    def test_download(self, run: Run, finished: Story, tmp_path: Path) -> None:
        done = run("download", finished.job_id, "-o", str(tmp_path), "--json")

        assert str(tmp_path / "student.safetensors") in json.loads(done.stdout)
        assert (tmp_path / "student.safetensors").read_bytes() == STUDENT_BYTES

    def test_cancel_and_retry(self, run: Run, api: Api) -> None:
        job = json.loads(run("submit", *TASK, "--json").stdout)

        assert f"Job {job['id']} is cancelled." in run("cancel", job["id"]).stdout
        assert run("cancel", job["id"]).returncode == 1
        again = json.loads(run("retry", job["id"], "--json").stdout)
        assert (again["parent_id"], again["state"]) == (job["id"], "queued")

    def test_no_such_job(self, run: Run) -> None:
        done = run("watch", "job_none")

        assert done.returncode == 1
        assert "job_not_found" in done.stderr


class TestNobodyThere:
    def test_it_says_how_to_start(self) -> None:
        done = limbeck(f"http://127.0.0.1:{free_port('127.0.0.1')}", "jobs")

        assert done.returncode == 1
        assert "limbeck up" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_key_is_asked_for_where_one_is_needed(self, tmp_path: Path) -> None:
        key = run_service(tmp_path, "keys", "create", "--name", "x").stdout.strip()
        with running_server(tmp_path) as server:
            refused = limbeck(server.url, "jobs")
            allowed = limbeck(server.url, "--api-key", key, "jobs", "--json")

        assert (refused.returncode, "LIMBECK_API_KEY" in refused.stderr) == (1, True)
        assert (allowed.returncode, json.loads(allowed.stdout)) == (0, [])


def test_version_and_help() -> None:
    assert limbeck("", "--version").stdout.startswith("limbeck ")
    assert "This machine" in limbeck("", "--help").stdout
