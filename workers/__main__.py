"""The worker process, `python -m workers`: publishes what it can do, claims jobs, starts a driver for each.

Settings come from the environment (`service.settings`). Loads neither torch nor ray itself.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import structlog

from search.catalogue_checks import offers
from service.files import ArtifactRoot
from service.logs import configure_logs
from service.settings import Settings
from service.store import workers
from service.store.errors import SchemaError, StoreUnavailable
from service.store.queue import Claimed
from service.store.session import Store, check_schema, migrate, open_store
from workers import process
from workers.catalogue import CatalogueError, read_catalogue
from workers.claim import WorkerLoop, stop_on_signals
from workers.patience import patiently
from workers.process import Driver

START_PATIENCE_SECONDS = 60.0

log = structlog.get_logger(__name__)


class CannotStart(Exception):  # noqa: N818  (says what happened)
    """This worker can do no work as things are; the message says why."""


def main() -> int:
    """Work until SIGTERM or SIGINT; the exit status is 1 if this worker cannot do any work."""
    settings = Settings()
    configure_logs(settings.log_level)
    store = open_store(settings.database_url)
    try:
        catalogue = prepare(settings, store)
    except (CannotStart, CatalogueError, SchemaError, StoreUnavailable, OSError) as error:
        log.error("worker_cannot_start", reason=f"{type(error).__name__}: {error}")
        return 1
    loop = WorkerLoop(
        store=store,
        settings=settings,
        runner=lambda claimed: start_driver(claimed, settings=settings),
        offers=offers(catalogue),
        catalogue=catalogue,
    )
    stop_on_signals(loop)
    loop.run()
    return 0


def prepare(settings: Settings, store: Store) -> dict[str, Any]:
    """See to schema, directories and artifact root; the catalogue. Waits for a database that starts up."""
    until = time.monotonic() + START_PATIENCE_SECONDS
    patiently(lambda: _prepare_schema(settings.database_url), give_up=lambda: time.monotonic() > until)
    for directory in (settings.cache_root, _logs(settings)):
        directory.mkdir(parents=True, exist_ok=True)
    identity = _checked_artifact_root(settings, store)
    return {**read_catalogue(), "artifact_root": identity}


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


def _checked_artifact_root(settings: Settings, store: Store) -> str:
    """The artifact root's nonce; CannotStart if another worker that lives has another root.

    Writes and reads a file. With two roots a job that changes its worker would not find its checkpoints.
    """
    root = ArtifactRoot(settings.artifact_root)
    root.check_writable()
    identity = root.identity()
    with store.session() as session:
        for other in workers.live(session, max_age_seconds=settings.worker_timeout_seconds):
            if other.catalogue.get("artifact_root", identity) != identity:
                raise CannotStart(
                    f"the artifact root {settings.artifact_root} is not the one that the worker on "
                    f"{other.host} (process {other.pid}) uses: all nodes must share one"
                )
    return identity


def _logs(settings: Settings) -> Path:
    return settings.home / "logs"


if __name__ == "__main__":
    sys.exit(main())
