"""A plug-in, installed as its users install it: the example of docs/plugins.md, word for word."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search.catalogue_checks import check_spec
from search.recipe import Process
from search.registry import Kind, UnknownMethodError, get
from search.spec import JobSpec
from service.files import ArtifactRoot
from service.settings import Settings
from service.store import jobs
from service.store.session import migrate, open_store
from tests.job_story import Story
from workers.catalogue import read_catalogue

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
FILES = dict(re.findall(r"^```\w+ title=([\w./]+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
(SPEC,) = re.findall(r"^```json\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)

PLAN = """
import json, sys
from search.registry import load_plans
from search.records import StageName
from search.spec import JobSpec
from tests.search.planning.simulated_job import SimulatedJob, preflight_result
load_plans()
told = json.loads(sys.stdin.read())
job = SimulatedJob(JobSpec.model_validate(told["spec"]), preflight=preflight_result(cards=told["cards"]))
job.run_to(StageName.TUNING)
assert "torch" not in sys.modules
print(json.dumps([trial.parameters for trial in job.of(StageName.SEARCH, "searched")]))
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example, installed beside everything else for processes that start now."""
    source, target = tmp_path / "source", tmp_path / "site"
    for name, text in FILES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--target", str(target), str(source)], check=True
    )
    paths = [str(target), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))


class UpToPreflight(Story):
    """This process does not know the plug-in: its plan gives up after preflight, and the driver goes on."""

    def fail(self, code: str, message: str) -> None:
        assert code in ("no_pathway_fits", "unknown_method")


def test_it_is_in_the_catalogue_in_the_plan_and_in_the_driver(installed: None) -> None:
    spec = JobSpec.model_validate_json(SPEC)
    with pytest.raises(UnknownMethodError):
        get(Kind.STRATEGY, spec.search.strategy)
    catalogue = read_catalogue()
    assert check_spec(spec, catalogue) == []
    cards = {card["id"]: card for card in catalogue["methods"]}
    proposed = planned(spec, cards)
    assert len(proposed) == spec.budget.trials
    for parameters in proposed:
        *pathways, same_length = parameters["process"]["pathways"]
        assert same_length["loss"] == "same_length"
        assert 0.5 <= same_length["config"]["power"] <= 2.0
        assert {(one["transform"], one["distance"]) for one in pathways} == {("identity", "silhouette")}
        kd, surest = parameters["process"]["logit_losses"]
        assert (kd["name"], surest["name"]) == ("kd", "surest")
        assert 0.6 <= surest["config"]["threshold"] <= 0.95
    names = ("connections", "process_learning_rate_factor")
    assert len({tuple(parameters["choices"][name] for name in names) for parameters in proposed}) > 2
    assert reason_of_the_driver(spec, cards) == "budget_too_small"


def test_a_real_job_trains_with_its_feature_loss(installed: None, tmp_path: Path) -> None:
    """A search on digits, in a process of its own: preflight, a trial that learns the weight, replays."""
    listed = json.loads(run_search("search", "methods", "--kind", "feature_loss", "--json"))
    (card,) = (method for method in listed if method["name"] == "same_length")
    assert card["config"]["properties"]["power"]["search"] == {"low": 0.5, "high": 2.0, "log": True}
    losses = [[{"name": "same_length", "config": {"power": 1.5}}]]
    space = {"connections": ["none"], "feature_losses": losses}
    spec = {
        "teachers": [{"model": "test_resnet", "training": {"epochs": 1}}],
        "student": {"model": "resnet8_w8"},
        "budget": {"trials": 1, "epochs_per_trial": 2},
        "search": {"space": space},
        "data": {"input_size": 16},
        "floor_accuracy": 0.0,
    }
    printed = run_search("tests.workers.local_job_program", str(tmp_path / "job"), json.dumps(spec))
    records = {record["key"]: record for record in json.loads(printed)}
    assert {record["state"] for record in records.values()} == {"completed"}
    assert "feature_loss/same_length" in records["preflight-preflight-0-0"]["result"]["cards"]
    process = Process.model_validate(records["search-searched-0-0"]["result"]["process"])
    (loss,) = process.pathways
    assert loss.name == "same_length(power=1.5)"
    assert loss.scale is not None
    assert loss.scale > 0
    first, *_, last = (point.pathway_weights[0] for point in process.points)
    assert first != last


def run_search(*arguments: str) -> str:
    """`python -m` with these; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def planned(spec: JobSpec, cards: dict[str, Any]) -> list[dict[str, Any]]:
    """Parameters of the search trials that a process of its own plans."""
    command = [sys.executable, "-c", PLAN]
    told = json.dumps({"spec": spec.model_dump(mode="json"), "cards": cards})
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    parameters: list[dict[str, Any]] = json.loads(done.stdout)
    return parameters


def reason_of_the_driver(spec: JobSpec, cards: dict[str, Any]) -> str | None:
    """Why a real driver refuses a job whose only fault is its budget: it has looked at the methods before."""
    settings = Settings()
    settings.home.mkdir()
    migrate(settings.database_url)
    store = open_store(settings.database_url)
    small = spec.model_copy(update={"budget": spec.budget.model_copy(update={"device_seconds": 1.0})})
    story = UpToPreflight(store, ArtifactRoot(settings.artifact_root), spec=small, cards=cards)
    story.submit()
    story.tell()
    assert story.lease is not None
    command = [sys.executable, "-m", "workers.run_job", "--job", story.job_id]
    command += ["--attempt", str(story.lease.attempt), "--token", str(story.lease.token)]
    read, write = os.pipe()
    try:
        done = subprocess.run(command, stdin=read, capture_output=True, text=True, check=False, timeout=60)
    finally:
        os.close(read)
        os.close(write)
    assert done.returncode == 0, done.stderr
    with store.session() as session:
        job = jobs.get(session, job_id=story.job_id)
    assert job is not None
    return job.status_reason
