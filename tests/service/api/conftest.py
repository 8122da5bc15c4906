"""Servers that the API's tests share: one per engine, with a worker's catalogue in the store."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from search.spec import JobSpec
from service.files import ArtifactRoot
from service.store import jobs, queue
from service.store.leases import Lease
from service.store.session import Store, open_store
from tests.conftest import ENGINES
from tests.job_story import register_worker
from tests.postgres import fresh_database
from tests.service.api.server import Server, running_server


@dataclass
class Api:
    """A server, a client of it, and the store behind it."""

    server: Server
    store: Store
    artifact_root: ArtifactRoot

    @property
    def client(self) -> httpx.Client:
        return self.server.client

    def submit(self, *, expect: int = 201, **parts: Any) -> dict[str, Any]:
        """POST a small job; the answer."""
        answer = self.client.post("/v1/jobs", json=small_spec(**parts))
        assert answer.status_code == expect, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def start_job(self, *, lease_seconds: float = 600.0, **fields: Any) -> Lease:
        """A running job that only this caller could claim, as a worker would have it; its lease."""
        mark = f"test:{uuid.uuid4().hex}"
        spec = JobSpec.model_validate(small_spec()).model_dump(mode="json")
        with self.store.begin_write() as session:
            jobs.insert_queued(session, new=jobs.NewJob(spec=spec, requirements=[mark], **fields))
            claimed = queue.claim(session, owner="worker", lease_seconds=lease_seconds, offers={mark})
        assert claimed is not None
        return claimed.lease

    def finish_job(self, lease: Lease, state: str = "succeeded", **fields: Any) -> None:
        """End a running job."""
        with self.store.begin_write() as session:
            queue.finish(session, lease=lease, state=state, **{"reason": "completed", **fields})

    def count_jobs(self) -> int:
        """How many jobs the store holds."""
        with self.store.session() as session:
            return sum(jobs.count_by_state(session).values())


def small_spec(**parts: Any) -> dict[str, Any]:
    """A valid spec, with parts replaced."""
    return {
        "teachers": [{"model": "test_resnet"}],
        "student": {"model": "test_efficientnet"},
        "data": {"name": "digits"},
        **parts,
    }


@contextmanager
def opened_api(home: Path, **settings: Any) -> Iterator[Api]:
    """An API whose catalogue a worker has published."""
    with running_server(home, **settings) as server:
        store = open_store(settings.get("database_url", f"sqlite:///{home / 'limbeck.sqlite'}"))
        register_worker(store)
        yield Api(server, store, ArtifactRoot(home / "artifacts"))
        store.close()


@pytest.fixture(scope="session")
def sqlite_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API over a fresh SQLite database."""
    with opened_api(tmp_path_factory.mktemp("sqlite-api")) as api:
        yield api


@pytest.fixture(scope="session")
def postgres_api(
    tmp_path_factory: pytest.TempPathFactory, postgres_server_url: str, postgres_template: str
) -> Iterator[Api]:
    """An API over a fresh PostgreSQL database."""
    home = tmp_path_factory.mktemp("postgres-api")
    with (
        fresh_database(postgres_server_url, template=postgres_template) as url,
        opened_api(home, database_url=url) as api,
    ):
        yield api


@pytest.fixture(params=ENGINES)
def api(request: pytest.FixtureRequest) -> Api:
    """An API on each engine, shared by the session: each test makes its own jobs."""
    shared: Api = request.getfixturevalue(f"{request.param}_api")
    return shared
