"""Fixtures that all tests share: databases on both engines, empty (`empty_*`) or with the newest schema."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.store.session import Store, migrate, open_store
from service.store.tables import Base
from tests.postgres import Cluster, fresh_database, migrated_template, open_cluster

ENGINES = [pytest.param("sqlite"), pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """A PostgreSQL server for tests: `LIMBECK_TEST_POSTGRES_URL`, or a cluster of our own."""
    if given := os.environ.get("LIMBECK_TEST_POSTGRES_URL"):
        yield given
        return
    with open_cluster() as cluster:
        cluster.relax()
        yield cluster.url


@pytest.fixture(scope="session")
def postgres_template(postgres_server_url: str) -> Iterator[str]:
    """Name of a migrated database to copy."""
    with migrated_template(postgres_server_url) as name:
        yield name


@pytest.fixture
def postgres_url(postgres_server_url: str, postgres_template: str) -> Iterator[str]:
    """A fresh PostgreSQL database with the newest schema."""
    with fresh_database(postgres_server_url, template=postgres_template) as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_server_url: str) -> Iterator[str]:
    """A fresh PostgreSQL database without tables."""
    with fresh_database(postgres_server_url) as url:
        yield url


@pytest.fixture(scope="module")
def postgres_cluster() -> Iterator[Cluster]:
    """A cluster of the module's own, to be stopped and started again; for tests of faults."""
    with open_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite file with the newest schema."""
    path = tmp_path / "limbeck.sqlite"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'empty.sqlite'}"


@pytest.fixture(params=ENGINES)
def store_url(request: pytest.FixtureRequest) -> str:
    """A fresh database with the newest schema, on each engine."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=ENGINES)
def empty_url(request: pytest.FixtureRequest) -> str:
    """A fresh database without tables, on each engine."""
    url: str = request.getfixturevalue(f"empty_{request.param}_url")
    return url


@pytest.fixture(scope="session")
def shared_postgres_store(postgres_server_url: str, postgres_template: str) -> Iterator[Store]:
    """One PostgreSQL database for all tests that use `store`: emptying it is faster than a new one."""
    with fresh_database(postgres_server_url, template=postgres_template) as url:
        opened = open_store(url)
        yield opened
        opened.close()


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Store]:
    """An open store on a fresh SQLite file."""
    opened = open_store(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def postgres_store(shared_postgres_store: Store) -> Store:
    """An open store on an empty PostgreSQL database."""
    with shared_postgres_store.begin_write() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())
    return shared_postgres_store


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest) -> Store:
    """An open store without rows, on each engine; processes of their own need `store_url`."""
    opened: Store = request.getfixturevalue(f"{request.param}_store")
    return opened
