"""One installation with API and worker for all fast tests: to start one takes 10 s."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.installation import SMALL_JOB, Installation


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation on SQLite; a test that ends its worker or its API starts another."""
    with Installation(tmp_path_factory.mktemp("home"), max_fruitless_attempts=100) as installation:
        installation.start_api()
        installation.start_worker()
        yield installation


@pytest.fixture(scope="session")
def finished(shared: Installation) -> str:
    """The id of a small job that nothing has disturbed."""
    job_id = shared.submit(SMALL_JOB)
    shared.succeed(job_id, seconds=240)
    return job_id
