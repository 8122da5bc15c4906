"""The client against a real API process."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import limbeck
from limbeck import AsyncClient, Client, Conflict, InvalidSpec, JobFailed, NotFound, WaitTimeout
from search.records import StageName
from search.spec import JobSpec
from service.store import queue
from tests.job_story import Story
from tests.service.api.conftest import Api

TASK: dict[str, Any] = {"teacher": "test_resnet", "student": "test_efficientnet", "data": "digits"}


class TestCreate:
    def test_a_job_from_short_forms(self, client: Client) -> None:
        job = client.jobs.create(**TASK, budget={"trials": 2}, name="short", labels={"a": "b"})

        assert (job.state, job.name) == ("queued", "short")
        assert job.spec["teachers"][0]["model"] == "test_resnet"
        assert job.spec["budget"] == {**job.spec["budget"], "trials": 2, "epochs_per_trial": 20}
        assert client.jobs.get(job.id).document == job.document

    def test_a_job_from_a_spec(self, client: Client) -> None:
        spec = JobSpec.model_validate(
            {"teachers": [{"model": "test_resnet"}], "student": {"model": "test_vit"}, "name": "whole"}
        )

        assert client.jobs.create(spec=spec).spec == spec.model_dump(mode="json")

    def test_the_same_key_submits_once(self, client: Client) -> None:
        first, second = (client.jobs.create(**TASK, idempotency_key="only-once") for _ in range(2))

        assert first.id == second.id

    def test_a_dry_run(self, client: Client) -> None:
        assert client.jobs.create(**TASK, dry_run=True).document["dry_run"] is True

    def test_a_typo_is_refused_with_field_and_remedy(self, api: Api, client: Client) -> None:
        before = api.count_jobs()
        with pytest.raises(InvalidSpec) as caught:
            client.jobs.create(teacher="test_resnett", student="test_efficientnet", budget={"trails": 2})

        faults = {fault.field: fault for fault in caught.value.faults}
        assert "trials" in str(faults["budget.trails"].remedy)
        assert caught.value.request_id
        assert api.count_jobs() == before

    def test_an_unknown_model_is_refused_with_the_nearest_name(self, client: Client) -> None:
        with pytest.raises(InvalidSpec, match="test_resnet"):
            client.jobs.create(teacher="test_resnett", student="test_efficientnet")


class TestList:
    def test_it_goes_over_all_pages(self, client: Client) -> None:
        made = [client.jobs.create(**TASK, labels={"list": "pages"}).id for _ in range(3)]

        found = [job.id for job in client.jobs.list(labels={"list": "pages"})]
        assert found == made[::-1]
        assert [job.id for job in client.jobs.list(labels={"list": "pages"}, limit=2)] == made[:0:-1]

    def test_pages_smaller_than_the_list(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("limbeck.api.PAGE_ITEMS", 2)
        made = [client.jobs.create(**TASK, labels={"list": "small"}).id for _ in range(5)]

        assert [job.id for job in client.jobs.list(labels={"list": "small"})] == made[::-1]

    def test_by_state(self, client: Client, finished: Story) -> None:
        states = {job.state for job in client.jobs.list(state="succeeded")}

        assert states == {"succeeded"}


class TestWait:
    def test_until_the_end(self, client: Client, story: Story) -> None:
        job = client.jobs.get(story.submit())
        teller = threading.Timer(0.3, story.tell)
        teller.start()

        assert job.wait(timeout=30, progress=False, poll_seconds=0.1) is job
        assert (job.state, job.is_done) == ("succeeded", True)
        teller.join()

    def test_not_longer_than_asked(self, client: Client, story: Story) -> None:
        job = client.jobs.get(story.submit())
        begun = time.monotonic()
        with pytest.raises(WaitTimeout, match="goes on"):
            job.wait(timeout=0.5, progress=False)
        assert time.monotonic() - begun < 5
        with pytest.raises(TimeoutError):
            job.wait(timeout=0, progress=False)

    def test_a_failure_is_an_answer_unless_success_is_asked_for(self, client: Client, story: Story) -> None:
        story.submit()
        story.claim()
        story.fail("teacher_check_failed", "The teacher knows nothing.")
        job = client.jobs.wait(story.job_id, progress=False)

        assert (job.state, job.status_reason) == ("failed", "teacher_check_failed")
        with pytest.raises(JobFailed, match=r"teacher_check_failed\. The teacher knows nothing"):
            job.wait(check=True, progress=False)

    def test_the_progress_bar_tells_stages(
        self, client: Client, finished: Story, capfd: pytest.CaptureFixture[str]
    ) -> None:
        client.jobs.wait(finished.job_id)

        assert "succeeded" in capfd.readouterr().err


class TestActions:
    def test_cancel_of_a_waiting_and_of_a_running_job(self, client: Client, story: Story) -> None:
        waiting = client.jobs.create(**TASK)
        assert waiting.cancel().state == "cancelled"
        with pytest.raises(Conflict) as caught:
            waiting.cancel()
        assert caught.value.code == "job_ended"

        story.submit()
        story.claim()
        running = client.jobs.get(story.job_id)
        assert (running.state, running.cancel().state) == ("running", "cancelling")

    def test_retry_is_a_new_job(self, client: Client) -> None:
        job = client.jobs.create(**TASK)
        job.cancel()
        again = job.retry()

        assert (again.state, again.document["parent_id"]) == ("queued", job.id)
        assert (job.state, again.id != job.id) == ("cancelled", True)

    def test_what_does_not_exist(self, client: Client) -> None:
        for call in (client.jobs.get, client.jobs.report, client.jobs.trials, client.jobs.cancel):
            with pytest.raises(NotFound):
                call("job_none")


class TestResults:
    def test_trials_and_their_figures(self, client: Client, finished: Story) -> None:
        trials = client.jobs.trials(finished.job_id)
        stopped = [trial for trial in trials if trial.state == "stopped_early"]
        (first,) = [
            trial for trial in trials if (trial.stage, trial.arm, trial.index) == ("search", "searched", 0)
        ]
        rows = client.jobs.metrics(first.id)

        assert len(trials) == len(finished.records)
        assert stopped
        assert all(
            trial.stopped and {"step", "value", "threshold", "rule"} <= trial.stopped.keys()
            for trial in stopped
        )
        assert [row.step for row in rows] == [7 * epoch for epoch in range(1, 13)]
        assert client.jobs.metrics(first.id, after_step=70) == rows[-2:]

    def test_figures_over_several_pages(
        self, client: Client, finished: Story, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trial = next(one for one in client.jobs.trials(finished.job_id) if one.stage == "search")
        whole = client.jobs.metrics(trial.id)
        monkeypatch.setattr("limbeck.job_flows.METRIC_ROWS", 5)

        assert client.jobs.metrics(trial.id) == whole

    def test_the_report(self, client: Client, finished: Story) -> None:
        report = client.jobs.report(finished.job_id)

        assert report.verdict.arm == "searched"
        assert "tuned KD" in report.verdict.sentence
        assert {arm.arm for arm in report.arms} == set(finished.spec.proof.arms)
        assert all(len(arm.runs) == 3 for arm in report.arms)
        difference = report.difference("searched")
        assert difference is not None
        assert difference.lower is not None
        assert 0 < difference.lower < difference.mean
        assert report.model_dump(mode="json") == client.jobs.get(finished.job_id).document["report"]

    def test_no_report_yet(self, client: Client, story: Story) -> None:
        job = client.jobs.get(story.submit())
        with pytest.raises(NotFound) as caught:
            job.report()
        assert caught.value.code == "report_not_ready"

    def test_the_recipe_is_saved(self, client: Client, finished: Story, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "recipe.json"
        document = client.jobs.recipe(finished.job_id, path=path)

        assert json.loads(path.read_text()) == document
        assert list(path.parent.iterdir()) == [path]
        assert client.recipes.get(client.jobs.get(finished.job_id).document["recipe_id"]) == document


class TestCatalogue:
    def test_what_the_installation_can_do(self, client: Client) -> None:
        assert "digits" in {entry["name"] for entry in client.datasets.list()}
        assert {entry["name"] for entry in client.models.list(q="vit")} == {"test_vit"}
        assert {entry["name"] for entry in client.methods.list(kind="strategy")} == {"random", "tpe"}
        assert [worker["state"] for worker in client.workers.list()] == ["live"]
        assert list(client.recipes.list()) is not None


class TestAwaiting:
    def test_the_same_from_asyncio(self, api: Api, story: Story) -> None:
        async def run() -> dict[str, Any]:
            async with AsyncClient(api.server.url) as client:
                job = await client.jobs.create(**TASK, labels={"async": "yes"})
                await asyncio.to_thread(story.adopt, job.id)
                teller = asyncio.create_task(asyncio.to_thread(story.tell))
                kinds = [event.kind async for event in job.events()]
                await teller
                listed = [found.id async for found in client.jobs.list(labels={"async": "yes"})]
                report = await (await job.wait(progress=False)).report()
                return {"kinds": kinds, "listed": listed, "verdict": report.verdict.arm, "id": job.id}

        found = asyncio.run(run())
        assert found["kinds"][0] == "job.queued"
        assert found["kinds"][-1] == "job.succeeded"
        assert (found["listed"], found["verdict"]) == ([found["id"]], "searched")

    def test_a_stream_may_be_left(self, api: Api, finished: Story) -> None:
        async def first() -> int:
            async with AsyncClient(api.server.url) as client:
                events = client.jobs.events(finished.job_id)
                async for event in events:
                    return event.sequence
                return 0

        assert asyncio.run(first()) == 1


def test_what_is_exported_is_what_there_is() -> None:
    visible = {name for name in vars(limbeck) if not name.startswith("_")}
    submodules = {name for name in visible if type(getattr(limbeck, name)).__name__ == "module"}

    assert set(limbeck.__all__) - {"__version__"} <= visible
    assert {name for name in visible - submodules if name[0].isupper()} == {
        name for name in limbeck.__all__ if name[0].isupper()
    } | {"VERSION"}


@pytest.fixture(autouse=True)
def _leave_nothing_queued(api: Api) -> Iterator[None]:
    """Nobody takes the jobs of these tests; nothing may hold a lease that runs out meanwhile."""
    yield
    with api.store.begin_write() as session:
        queue.expire_leases(session, policy=queue.RetryPolicy())


def test_stage_names_are_shared() -> None:
    from limbeck.progress import STAGES

    assert tuple(stage.value for stage in StageName) == STAGES
