"""Who may do what: keys, scopes, this machine, and pages of other sites."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.server import StartRefused, refuse_open_door
from service.settings import Settings
from service.store import keys
from service.store.session import open_store
from service.store.states import Scope
from tests.service.api.conftest import Api, opened_api, small_spec
from tests.service.api.server import run_service, running_server

READ_PATHS = ("/v1/jobs", "/v1/recipes", "/v1/methods", "/v1/workers", "/v1/jobs/job_0", "/metrics")
OPEN_PATHS = ("/healthz", "/readyz", "/version", "/docs", "/openapi.json")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API whose store holds keys."""
    with opened_api(tmp_path_factory.mktemp("guarded")) as api:
        with api.store.begin_write() as session:
            keys.create(session, name="first", scopes=[Scope.ADMIN])
        yield api


def key(api: Api, *scopes: Scope) -> str:
    with api.store.begin_write() as session:
        return keys.create(session, name="test", scopes=scopes).clear


def bearer(clear: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {clear}"}


class TestKeys:
    @pytest.mark.parametrize("path", READ_PATHS)
    def test_without_one_nothing_is_shown(self, guarded: Api, path: str) -> None:
        for headers in ({}, bearer("lmb_wrong"), {"Authorization": "Bearer"}, {"Authorization": "Basic %%%"}):
            answer = guarded.client.get(path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "keys create" in answer.json()["detail"]

    @pytest.mark.parametrize("path", OPEN_PATHS)
    def test_what_says_nothing_of_jobs_is_open(self, guarded: Api, path: str) -> None:
        assert guarded.client.get(path).status_code == 200

    def test_a_key_may_what_its_scopes_allow(self, guarded: Api) -> None:
        reader, submitter, admin = (key(guarded, scope) for scope in (Scope.READ, Scope.SUBMIT, Scope.ADMIN))
        for clear in (reader, submitter, admin):
            assert guarded.client.get("/v1/jobs", headers=bearer(clear)).status_code == 200
        for clear, status in ((reader, 403), (submitter, 201), (admin, 201)):
            answer = guarded.client.post("/v1/jobs", json=small_spec(), headers=bearer(clear))
            assert answer.status_code == status
        refused = guarded.client.post("/v1/jobs/job_0/cancel", headers=bearer(reader)).json()
        assert refused["code"] == "forbidden"
        assert "`submit`" in refused["detail"]

    def test_a_revoked_key_is_worth_nothing(self, guarded: Api) -> None:
        clear = key(guarded, Scope.READ)
        assert guarded.client.get("/v1/jobs", headers=bearer(clear)).status_code == 200
        with guarded.store.begin_write() as session:
            found = keys.find(session, clear=clear)
            assert found is not None
            assert found.last_used_at is not None
            keys.revoke(session, key_id=found.id)
        assert guarded.client.get("/v1/jobs", headers=bearer(clear)).status_code == 401

    def test_a_job_remembers_the_key_and_keys_do_not_share_idempotency(self, guarded: Api) -> None:
        one, other = key(guarded, Scope.SUBMIT), key(guarded, Scope.SUBMIT)
        ids = {
            guarded.client.post(
                "/v1/jobs", json=small_spec(), headers={**bearer(clear), "Idempotency-Key": "same"}
            ).json()["id"]
            for clear in (one, other)
        }
        assert len(ids) == 2

    def test_browsers_send_it_as_a_password(self, guarded: Api) -> None:
        page = {"Accept": "text/html"}
        asked = guarded.client.get("/", headers=page)
        assert asked.status_code == 401
        assert asked.headers["WWW-Authenticate"].startswith("Basic realm=")
        basic = base64.b64encode(f"anyone:{key(guarded, Scope.READ)}".encode()).decode()
        assert guarded.client.get("/", headers={**page, "Authorization": f"Basic {basic}"}).status_code == 200

    def test_the_key_is_in_no_log_line(self, guarded: Api) -> None:
        clear = key(guarded, Scope.READ)
        answer = guarded.client.get("/v1/jobs", headers=bearer(clear))
        lines = guarded.server.log_of(answer.headers["X-Request-ID"])
        assert lines[-1]["principal"].startswith("key_")
        assert clear not in str(guarded.server.log)
        assert clear not in "".join(guarded.server.other_output)


class TestOtherSites:
    """A browser on this machine must not be led by pages of other sites."""

    def test_their_pages_cannot_act(self, sqlite_api: Api) -> None:
        before = sqlite_api.count_jobs()
        for origin in ("https://evil.example", "null", "http://localhost:1", "http://127.0.0.1"):
            answer = sqlite_api.client.post("/v1/jobs", json=small_spec(), headers={"Origin": origin})
            assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin")
        assert sqlite_api.count_jobs() == before
        own = sqlite_api.client.post("/v1/jobs", json=small_spec(), headers={"Origin": sqlite_api.server.url})
        assert own.status_code == 201

    def test_their_names_cannot_be_pointed_here(self, sqlite_api: Api) -> None:
        for host in ("evil.example", "evil.example:8300", "10.0.0.7"):
            answer = sqlite_api.client.get("/v1/jobs", headers={"Host": host})
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        for host in ("localhost", "127.0.0.1:8300", "[::1]"):
            assert sqlite_api.client.get("/v1/jobs", headers={"Host": host}).status_code == 200

    def test_a_proxy_on_this_machine_does_not_open_the_door(self, sqlite_api: Api) -> None:
        answer = sqlite_api.client.get("/v1/jobs", headers={"X-Forwarded-For": "203.0.113.9"})
        assert answer.status_code == 401

    def test_their_scripts_cannot_read(self, sqlite_api: Api) -> None:
        answer = sqlite_api.client.get("/v1/jobs", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers


class TestTheDoor:
    """Beyond loopback the server needs a key. Nothing is bound there by these tests."""

    def test_without_a_key_the_process_ends_and_says_what_to_do(self, tmp_path: Path) -> None:
        refused = run_service(tmp_path, "serve", "--port", "0", "--host", "0.0.0.0")
        assert refused.returncode == 2
        assert "no API key" in refused.stderr
        assert "python -m service keys create" in refused.stderr

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "limbeck.example", "127.example"])
    def test_it_opens_with_the_first_key_and_closes_with_the_last(self, sqlite_url: str, host: str) -> None:
        store = open_store(sqlite_url)
        settings = Settings(host=host, database_url=sqlite_url)
        with pytest.raises(StartRefused, match=host):
            refuse_open_door(settings, store)
        with store.begin_write() as session:
            made = keys.create(session, name="first", scopes=[Scope.READ]).row
        refuse_open_door(settings, store)
        with store.begin_write() as session:
            keys.revoke(session, key_id=made.id)
        with pytest.raises(StartRefused):
            refuse_open_door(settings, store)
        store.close()

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
    def test_loopback_needs_none(self, sqlite_url: str, host: str) -> None:
        store = open_store(sqlite_url)
        refuse_open_door(Settings(host=host, database_url=sqlite_url), store)
        store.close()

    def test_keys_create_shows_the_key_once(self, tmp_path: Path) -> None:
        created = run_service(tmp_path, "keys", "create", "--name", "ci", "--scopes", "read,submit")
        assert created.returncode == 0, created.stderr
        clear = created.stdout.strip()
        assert clear.startswith("lmb_")
        database = b"".join(path.read_bytes() for path in tmp_path.glob("limbeck.sqlite*"))
        assert b"api_key" in database
        assert clear.encode() not in database
        with running_server(tmp_path) as server:
            assert server.client.get("/v1/jobs").status_code == 401
            assert server.client.get("/v1/jobs", headers=bearer(clear)).status_code == 200

    def test_unknown_scopes_are_refused(self, tmp_path: Path) -> None:
        refused = run_service(tmp_path, "keys", "create", "--name", "ci", "--scopes", "read,writ")
        assert refused.returncode == 2
        assert "read, submit, admin" in refused.stderr
        assert not (tmp_path / "limbeck.sqlite").exists()
