"""A claimed job on a database and directories of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings
from service.store.session import Store
from tests.workers.claimed_job import ClaimedJob


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings below the test's directory."""
    return Settings(home=tmp_path / "home")


@pytest.fixture
def claimed_job(sqlite_store: Store, settings: Settings) -> ClaimedJob:
    """A small job that a worker has claimed."""
    return ClaimedJob(sqlite_store, settings)
