"""What the API does on the side: jobs that their worker lost go back to the queue, old answers are dropped.

Workers do the first too; here it also happens when no worker is left, so that nobody sees a dead job run.
"""

from __future__ import annotations

import asyncio

import structlog
from anyio.to_thread import run_sync

from service.dependencies import Services
from service.idempotency import KEEP_SECONDS
from service.store import idempotency, queue
from service.store.queue import RetryPolicy

log = structlog.get_logger(__name__)


async def keep_house(services: Services) -> None:
    """Clean up once per heartbeat, until cancelled; what fails is logged and tried again."""
    while True:
        try:
            await run_sync(clean_up, services)
        except Exception:
            log.exception("housekeeping failed")
        await asyncio.sleep(services.settings.heartbeat_seconds)


def clean_up(services: Services) -> None:
    """Take back jobs whose lease ran out, and forget answers that no client will ask for again."""
    with services.store.begin_write() as session:
        expired = queue.expire_leases(session, policy=RetryPolicy.from_settings(services.settings))
        idempotency.purge(session, older_than_seconds=KEEP_SECONDS)
    for job in expired:
        log.warning("lease lost", job_id=job.id, state=job.state.value)
