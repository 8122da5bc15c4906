"""The pages as a browser without JavaScript gets them: over HTTP, from a real server."""

from __future__ import annotations

import re
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from service.files import ArtifactRoot
from service.store import queue
from service.store.session import open_store
from tests.job_story import Story, preflight, small_spec, spec_without_labels
from tests.service.api.conftest import Api, opened_api
from tests.service.api.server import run_service, running_server
from tests.service.web.conftest import HOSTILE, Stories


class Document(HTMLParser):
    """Text and attributes of a page; a tag that is never closed is a fault."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def attributes(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.tags if name in attributes]


def get(api: Api, path: str, status: int = 200) -> Document:
    answer = api.client.get(path, headers={"accept": "text/html"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Document(answer.text)


class TestList:
    def test_every_job_with_state_task_accuracy_and_trials(self, api: Api, stories: Stories) -> None:
        text = get(api, "/").text

        for story in (stories.succeeded, stories.failed, stories.running, stories.queued):
            assert story.job_id in text
        assert "Digits, small ResNet to EfficientNet" in text
        assert "test_resnet → test_efficientnet on digits" in text
        assert "teacher check failed" in text
        assert re.search(r"succeeded\s+(\d+) of \1\s+94\.7 %\s+searched", text)
        assert "1 worker running" in text

    def test_newest_first(self, api: Api, stories: Stories) -> None:
        hrefs = [href for href in get(api, "/").attributes("href") if href.startswith("/jobs/job_")]

        assert hrefs == sorted(hrefs, reverse=True)

    def test_filtered_by_state(self, api: Api, stories: Stories) -> None:
        text = get(api, "/?state=failed").text

        assert stories.failed.job_id in text
        assert stories.succeeded.job_id not in text
        assert "paused" in get(api, "/?state=paused").text
        assert "No job is ever" in get(api, "/?state=lost", status=404).text

    def test_from_an_empty_house_to_more_jobs_than_a_page_holds(self, tmp_path: Path) -> None:
        with opened_api(tmp_path) as api:
            empty = get(api, "/").text
            made = [Story(api.store, api.artifact_root).submit() for _ in range(30)]
            first = get(api, "/?state=queued")
            (older,) = [href for href in first.attributes("href") if "after=" in href]
            second = get(api, older)

        assert "No job yet" in empty
        assert "limbeck submit" in empty
        assert re.findall(r"job_\w+", first.text + second.text) == made[::-1]
        assert "Newest" in second.text

    def test_jobs_that_nobody_will_take(self, tmp_path: Path) -> None:
        with (
            running_server(tmp_path) as server,
            closing(open_store(f"sqlite:///{tmp_path}/limbeck.sqlite")) as store,
        ):
            Story(store, ArtifactRoot(tmp_path)).submit()

            assert "No worker is running." in Document(server.client.get("/").text).text


class TestJob:
    def test_all_of_a_finished_job(self, api: Api, stories: Stories) -> None:
        story = stories.succeeded
        document = get(api, f"/jobs/{story.job_id}")
        report = api.client.get(f"/v1/jobs/{story.job_id}/report").json()

        assert report["verdict"]["sentence"] in document.text
        for arm in report["arms"]:
            figures = f"{100 * arm['mean']:.2f} % ± {100 * arm['standard_deviation']:.2f} %"
            assert arm["label"] in document.text
            assert figures in document.text
        for replay in report["replays"]:
            figures = f"{100 * replay['accuracy']:.2f} % ± {100 * replay['standard_error']:.2f} %"
            assert figures in document.text
        assert document.text.count("taken") == 1
        for section in ("Verdict", "Proof", "The process", "Learning curves", "Trials", "Events"):
            assert section in document.text

    def test_a_job_without_labels_says_what_it_judged_by(self, api: Api) -> None:
        story = Story(api.store, api.artifact_root, spec=spec_without_labels())
        story.submit()
        story.tell()
        document = get(api, f"/jobs/{story.job_id}")
        report = api.client.get(f"/v1/jobs/{story.job_id}/report").json()

        assert report["verdict"]["sentence"] in document.text
        assert report["without_labels"]["sentence"] in document.text
        assert "Test agreement with the teacher, mean" in document.text
        assert "Agreement with the teacher" in document.text
        assert "Test accuracy" not in document.text
        for row in report["without_labels"]["rows"]:
            assert row["label"] in document.text
            assert f"{100 * row['knn_accuracy']:.2f} %" in document.text
            assert f"{100 * row['out_of_distribution_auroc']:.2f} %" in document.text
        charts = document.attributes("aria-label")
        for title in (
            "Test agreement with the teacher of every arm",
            "Validation agreement with the teacher: search",
        ):
            assert any(chart.startswith(title) for chart in charts)

    def test_its_charts(self, api: Api, stories: Stories) -> None:
        charts = get(api, f"/jobs/{stories.succeeded.job_id}").attributes("aria-label")

        for title in (
            "Test accuracy of every arm",
            "Paired differences with 95% intervals",
            "Weight of every loss over training",
            "Temperatures over training",
            "Weight of every pathway over training",
            "Validation accuracy: search",
        ):
            assert any(chart.startswith(title) for chart in charts)

    def test_a_trial_that_was_stopped_says_where_and_why(self, api: Api, stories: Stories) -> None:
        (stopped, *_) = [record.stopped for record in stories.succeeded.records if record.stopped]
        text = get(api, f"/jobs/{stories.succeeded.job_id}").text

        value, threshold = f"{100 * stopped.value:.1f} %", f"{100 * stopped.threshold:.1f} %"
        assert f"stopped at step {stopped.step}: {value} against {threshold} ({stopped.rule})" in text

    def test_links_lead_to_recipe_student_and_data(self, api: Api, stories: Stories) -> None:
        document = get(api, f"/jobs/{stories.succeeded.job_id}")
        links = {href for href in document.attributes("href") if href.startswith("/v1/")}

        parts = {"recipe", "report", "trials", "artifacts", "events"}
        assert parts <= {link.rpartition("/")[2] for link in links}
        for link in links:
            assert api.client.get(link).status_code == 200, link

    def test_why_a_job_failed(self, api: Api, stories: Stories) -> None:
        assert (
            "teacher check failed : The teacher knows nothing."
            in get(api, f"/jobs/{stories.failed.job_id}").text
        )

    def test_a_job_that_waits(self, api: Api, stories: Stories) -> None:
        text = get(api, f"/jobs/{stories.queued.job_id}").text

        assert "Waiting for" in text
        assert "No trial has started yet." in text

    def test_a_running_job(self, api: Api, stories: Stories) -> None:
        text = get(api, f"/jobs/{stories.running.job_id}").text

        assert re.search(r"Search\s+0/\d, 1 running", text)
        assert "epoch 6, step 42" in text
        assert "to come" in text

    def test_a_job_that_does_not_exist(self, api: Api) -> None:
        for path in ("/jobs/job_none", "/jobs/job_none/fragment", "/jobs/%00%F0%28", "/static/none.css"):
            assert "Nothing here" in get(api, path, status=404).text

    def test_a_dry_run_shows_what_preflight_found(self, api: Api) -> None:
        story = Story(api.store, api.artifact_root, spec=small_spec(name="dry"))
        story.submit()
        story.claim()
        assert story.lease is not None
        with api.store.begin_write() as session:
            queue.record_preflight(session, lease=story.lease, preflight=preflight().model_dump(mode="json"))

        assert "floor accuracy 0.15" in get(api, f"/jobs/{story.job_id}").text


class TestSafety:
    def test_what_users_write_is_shown_and_never_taken_for_markup(self, api: Api, stories: Stories) -> None:
        for path in ("/", f"/jobs/{stories.running.job_id}", f"/jobs/{stories.failed.job_id}"):
            document = get(api, path)
            assert HOSTILE in "".join(document.words)
            assert "x" not in document.attributes("src")
            assert "onerror" not in {name for _, attributes in document.tags for name in attributes}

    def test_nothing_is_inline_and_nothing_comes_from_elsewhere(self, api: Api, stories: Stories) -> None:
        for path in ("/", f"/jobs/{stories.succeeded.job_id}"):
            answer = api.client.get(path)
            policy = answer.headers["content-security-policy"]
            document = Document(answer.text)

            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert document.attributes("style") == []
            assert [
                name for _, attributes in document.tags for name in attributes if name.startswith("on")
            ] == []
            addresses = document.attributes("href") + document.attributes("src")
            assert [one for one in addresses if not one.startswith(("/", "#"))] == []

    def test_static_files_are_kept_by_browsers_and_named_by_content(self, api: Api) -> None:
        (style,) = [
            href for href in get(api, "/").attributes("href") if href.endswith(".css") or ".css?" in href
        ]
        answer = api.client.get(style)

        assert "immutable" in answer.headers["cache-control"]
        assert re.search(r"\?v=[0-9a-f]{12}$", style)
        assert api.client.get("/static/../pages.py").status_code == 404

    def test_pages_ask_for_a_key_where_there_are_keys(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        home = tmp_path_factory.mktemp("keys")
        key = run_service(home, "keys", "create", "--name", "x", "--scopes", "read").stdout.strip()
        with running_server(home) as server:
            refused = server.client.get("/", headers={"accept": "text/html"})
            shown = server.client.get("/", auth=httpx.BasicAuth("anybody", key))

        assert (refused.status_code, shown.status_code) == (401, 200)
        assert refused.headers["www-authenticate"].startswith("Basic")
