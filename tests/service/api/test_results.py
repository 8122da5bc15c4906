"""What came of a job: trials, figures, report, recipe, files; and the library of recipes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from service.store import artifacts, recipes
from tests.job_story import STUDENT_BYTES, Story
from tests.service.api.conftest import Api, opened_api

ETAG = f'"{hashlib.sha256(STUDENT_BYTES).hexdigest()}"'
SIZE = len(STUDENT_BYTES)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Story]]:
    """An API with one job that has succeeded."""
    with opened_api(tmp_path_factory.mktemp("told")) as api:
        story = Story(api.store, api.artifact_root)
        story.submit()
        story.tell()
        yield api, story


@pytest.fixture
def api(told: tuple[Api, Story]) -> Api:
    return told[0]


@pytest.fixture
def job(told: tuple[Api, Story]) -> str:
    return f"/v1/jobs/{told[1].job_id}"


@pytest.fixture
def student(api: Api, job: str) -> dict[str, Any]:
    files = api.client.get(f"{job}/artifacts").json()["data"]
    return next(file for file in files if file["name"] == "student.safetensors")


class TestTrials:
    def test_pages_hold_each_trial_once_in_order(self, api: Api, job: str) -> None:
        found: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": 7}
        while True:
            page = api.client.get(f"{job}/trials", params=query).json()
            found += page["data"]
            if not page["has_more"]:
                break
            query["after"] = page["next_cursor"]
        assert len({trial["id"] for trial in found}) == len(found) > 20
        assert [trial["id"] for trial in found] == sorted(trial["id"] for trial in found)
        assert found[0]["object"] == "distillation.trial"
        assert [found[0]["stage"], found[-1]["stage"]] == ["teacher", "export"]

    def test_one_that_was_stopped_early_says_by_which_rule(self, api: Api, job: str) -> None:
        trials = api.client.get(f"{job}/trials?limit=100").json()["data"]
        stopped = [trial for trial in trials if trial["state"] == "stopped_early"]
        assert stopped
        assert set(stopped[0]["stopped"]) == {"step", "value", "threshold", "rule"}
        assert stopped[0]["stopped"]["value"] < stopped[0]["stopped"]["threshold"]

    def test_figures_step_by_step(self, api: Api, job: str) -> None:
        trials = api.client.get(f"{job}/trials?limit=100").json()["data"]
        trial = next(
            trial for trial in trials if trial["stage"] == "search" and trial["state"] == "completed"
        )
        first = api.client.get(f"/v1/trials/{trial['id']}/metrics?limit=5").json()
        assert [row["step"] for row in first["data"]] == [7, 14, 21, 28, 35]
        assert first["has_more"]
        rest = api.client.get(f"/v1/trials/{trial['id']}/metrics?after_step={first['next_cursor']}").json()
        assert [row["step"] for row in rest["data"]] == [42, 49, 56, 63, 70, 77, 84]
        assert set(rest["data"][0]) == {"step", "attempt", "epoch", "figures", "is_validation"}
        assert (
            api.client.get(f"{job}/trials/{trial['id']}/metrics").json()["data"]
            == first["data"] + rest["data"]
        )

    def test_of_no_trial(self, api: Api) -> None:
        for path in ("/v1/trials/trl_0/metrics", f"/v1/jobs/{api.submit()['id']}/trials/trl_0/metrics"):
            answer = api.client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (404, "trial_not_found")


class TestReportAndRecipe:
    def test_the_report_is_the_jobs(self, api: Api, job: str) -> None:
        report = api.client.get(f"{job}/report").json()
        assert report == api.client.get(job).json()["report"]
        assert report["verdict"]["arm"] in ("searched", "plain_kd", "student_alone")
        assert {"arms", "differences", "device_seconds"} <= set(report)

    def test_the_recipe_is_the_document(self, api: Api, job: str) -> None:
        assert api.client.get(f"{job}/recipe").json() == {"schema_version": 1, "arm": "searched"}

    def test_neither_is_there_before_the_end(self, api: Api) -> None:
        queued = api.submit()["id"]
        for part in ("report", "recipe"):
            answer = api.client.get(f"/v1/jobs/{queued}/{part}")
            assert (answer.status_code, answer.json()["code"]) == (404, f"{part}_not_ready")
            assert "queued" in answer.json()["detail"]

    def test_the_library_holds_the_recipe(self, api: Api, job: str) -> None:
        listed = api.client.get("/v1/recipes").json()["data"]
        recipe_id = api.client.get(job).json()["recipe_id"]
        assert [recipe["id"] for recipe in listed] == [recipe_id]
        assert listed[0]["document"] is None
        one = api.client.get(f"/v1/recipes/{recipe_id}").json()
        assert one["document"] == {"schema_version": 1, "arm": "searched"}
        assert (one["teacher"], one["student"], one["data"]) == ("test_resnet", "test_efficientnet", "digits")
        missing = api.client.get("/v1/recipes/rcp_0")
        assert (missing.status_code, missing.json()["code"]) == (404, "recipe_not_found")


class TestArtifacts:
    def test_the_list_names_size_and_checksum(self, api: Api, job: str, student: dict[str, Any]) -> None:
        assert (student["bytes"], f'"{student["sha256"]}"') == (SIZE, ETAG)
        first = api.client.get(f"{job}/artifacts?limit=1").json()
        rest = api.client.get(f"{job}/artifacts?after={first['next_cursor']}").json()
        names = [file["name"] for file in first["data"] + rest["data"]]
        assert sorted(names) == ["recipe.json", "student.safetensors"]

    def test_a_download_is_whole_and_named(self, api: Api, student: dict[str, Any]) -> None:
        answer = api.client.get(student["links"]["content"])
        assert answer.status_code == 200
        assert answer.content == STUDENT_BYTES
        assert answer.headers["etag"] == ETAG
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-length"] == str(SIZE)
        assert 'attachment; filename="student.safetensors"' in answer.headers["content-disposition"]

    @pytest.mark.parametrize(
        ("asked", "start", "end"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=10-19", 10, 20),
            ("bytes=524000-", 524000, SIZE),
            ("bytes=-100", SIZE - 100, SIZE),
            ("bytes=524287-99999999", SIZE - 1, SIZE),
            (f"bytes=-{10 * SIZE}", 0, SIZE),
        ],
    )
    def test_a_range(self, api: Api, student: dict[str, Any], asked: str, start: int, end: int) -> None:
        answer = api.client.get(student["links"]["content"], headers={"Range": asked})
        assert answer.status_code == 206
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
        assert answer.content == STUDENT_BYTES[start:end]

    @pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=-0", "bytes=99999999-"])
    def test_a_range_outside(self, api: Api, student: dict[str, Any], asked: str) -> None:
        answer = api.client.get(student["links"]["content"], headers={"Range": asked})
        assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
        assert answer.headers["content-range"] == f"bytes */{SIZE}"

    @pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6", "bytes=-"])
    def test_a_range_that_is_none_is_ignored(self, api: Api, student: dict[str, Any], asked: str) -> None:
        answer = api.client.get(student["links"]["content"], headers={"Range": asked})
        assert (answer.status_code, len(answer.content)) == (200, SIZE)

    def test_conditions(self, api: Api, student: dict[str, Any]) -> None:
        link = student["links"]["content"]
        assert api.client.get(link, headers={"If-None-Match": ETAG}).status_code == 304
        assert api.client.get(link, headers={"If-None-Match": '"other"'}).status_code == 200
        resumed = {"Range": "bytes=5-", "If-Range": ETAG}
        assert api.client.get(link, headers=resumed).status_code == 206
        assert api.client.get(link, headers={**resumed, "If-Range": '"older"'}).status_code == 200

    def test_head_tells_the_size(self, api: Api, student: dict[str, Any]) -> None:
        answer = api.client.head(student["links"]["content"])
        assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, str(SIZE), b"")

    def test_of_another_job_or_none(self, api: Api, student: dict[str, Any]) -> None:
        other = api.submit()["id"]
        for artifact_id in (student["id"], "art_0", "%00", "../../limbeck.sqlite"):
            answer = api.client.get(f"/v1/jobs/{other}/artifacts/{artifact_id}")
            assert answer.status_code == 404

    def test_a_file_that_was_lost_or_changed_is_gone(self, api: Api) -> None:
        lease = api.start_job()
        for name in ("lost.bin", "short.bin", "out of the way"):
            path = f"jobs/{lease.job_id}/{name}" if name != "out of the way" else "../limbeck.sqlite"
            with api.store.begin_write() as session:
                artifacts.record(
                    session, lease=lease, trial_id=None, name=name, path=path, bytes=9, sha256="0" * 64
                )
        api.artifact_root.write_bytes(f"jobs/{lease.job_id}/short.bin", b"x")
        for file in api.client.get(f"/v1/jobs/{lease.job_id}/artifacts").json()["data"]:
            answer = api.client.get(file["links"]["content"])
            assert (answer.status_code, answer.json()["code"]) == (410, "artifact_gone"), file["name"]

    def test_a_name_that_is_not_plain(self, api: Api) -> None:
        lease = api.start_job()
        name = 'ü "x"\r\nSet-Cookie: a=b.json'
        written = api.artifact_root.write_bytes(f"jobs/{lease.job_id}/file", b"{}")
        with api.store.begin_write() as session:
            made = artifacts.record(
                session,
                lease=lease,
                trial_id=None,
                name=name,
                path=f"jobs/{lease.job_id}/file",
                **vars(written),
            )
        answer = api.client.get(f"/v1/jobs/{lease.job_id}/artifacts/{made.id}")
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert "filename*=UTF-8''%C3%BC%20%22x%22" in answer.headers["content-disposition"]


class TestLibraryPages:
    def test_newest_first(self, api: Api) -> None:
        made = []
        for number in range(5):
            lease = api.start_job()
            with api.store.begin_write() as session:
                made.append(
                    recipes.record(
                        session,
                        lease=lease,
                        document={"number": number},
                        schema_version=1,
                        arm="searched",
                        teacher="a",
                        student="b",
                        data="digits",
                    ).id
                )
        first = api.client.get("/v1/recipes?limit=3").json()
        rest = api.client.get("/v1/recipes", params={"after": first["next_cursor"]}).json()
        assert [recipe["id"] for recipe in first["data"]] == made[:1:-1]
        assert [recipe["id"] for recipe in rest["data"]][:2] == made[1::-1]
        assert json.loads(json.dumps(first)) == first
