"""The worker process, `python -m workers`: publishes what it can do, claims jobs, starts a driver for each.

Settings come from the environment (`service.settings`). Loads neither torch nor ray itself.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import structlog

from search.catalogue_checks import offers
from service.files import ArtifactRoot
from service.logs import configure_logs
from service.settings import Settings
from service.store.errors import SchemaError
from service.store.queue import Claimed
from service.store.session import check_schema, migrate, open_store
from workers import process
from workers.catalogue import CatalogueError, read_catalogue
from workers.claim import WorkerLoop, stop_on_signals
from workers.process import Driver

log = structlog.get_logger(__name__)


def main() -> int:
    """Work until SIGTERM or SIGINT; the exit status is 1 if this worker can never do any work."""
    settings = Settings()
    configure_logs(settings.log_level)
    try:
        _prepare_schema(settings.database_url)
        root_identity = _checked_artifact_root(settings)
        catalogue = {**read_catalogue(), "artifact_root": root_identity}
    except (SchemaError, OSError, CatalogueError) as error:
        log.error("worker_cannot_start", reason=f"{type(error).__name__}: {error}")
        return 1
    for directory in (settings.cache_root, _logs(settings)):
        directory.mkdir(parents=True, exist_ok=True)
    loop = WorkerLoop(
        store=open_store(settings.database_url),
        settings=settings,
        runner=lambda claimed: start_driver(claimed, settings=settings),
        offers=offers(catalogue),
        catalogue=catalogue,
    )
    stop_on_signals(loop)
    loop.run()
    return 0


def start_driver(claimed: Claimed, *, settings: Settings) -> Driver:
    """Start the driver of a claimed job; what it says goes to a file of its own."""
    lease = claimed.lease
    return process.start(
        [
            sys.executable,
            "-m",
            "workers.run_job",
            f"--job={lease.job_id}",
            f"--attempt={lease.attempt}",
            f"--token={lease.token}",
        ],
        environment=os.environ,
        output=_logs(settings) / f"{lease.job_id}-{lease.attempt}.log",
    )


def _prepare_schema(database_url: str) -> None:
    """As the API does: an embedded database is brought up to date, by whoever comes first."""
    if database_url.startswith("sqlite"):
        migrate(database_url)
    else:
        check_schema(database_url)


def _checked_artifact_root(settings: Settings) -> str:
    """The artifact root's nonce: all who see the same root publish the same. Writes and reads a file."""
    root = ArtifactRoot(settings.artifact_root)
    root.check_writable()
    return root.identity()


def _logs(settings: Settings) -> Path:
    return settings.home / "logs"


if __name__ == "__main__":
    sys.exit(main())
