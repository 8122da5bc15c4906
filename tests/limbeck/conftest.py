"""A real API process that the client's tests share; each test makes its own jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from limbeck import Client
from tests.job_story import Story
from tests.service.api.conftest import Api, opened_api


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API over SQLite, with a worker's catalogue."""
    with opened_api(tmp_path_factory.mktemp("client-api")) as running:
        yield running


@pytest.fixture
def client(api: Api) -> Iterator[Client]:
    """A client of it."""
    with Client(api.server.url, max_retries=2) as made:
        yield made


@pytest.fixture
def story(api: Api) -> Story:
    """A job to be told."""
    return Story(api.store, api.artifact_root)


@pytest.fixture(scope="session")
def finished(api: Api) -> Story:
    """A job with trials, report, recipe and files; for tests that only look."""
    told = Story(api.store, api.artifact_root)
    told.submit()
    told.tell()
    return told
