"""Following a job in a terminal: a line for what happens, a bar for how far it is."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from limbeck.drivers import Blocking
from limbeck.jobs import Job
from limbeck.progress import ProgressBar
from limbeck.render import event_line

QUIET_KINDS = frozenset({"job.progress", "trial.started", "job.claimed", "job.queued"})
REFRESH_SECONDS = 0.5


def follow(job: Job[Blocking], console: Console) -> Job[Blocking]:
    """Show the job until it has ended; returns it as it is then. What began before is not told again."""
    shown_at = 0.0
    # The events say what stage it is; on a terminal the bar shows it, too.
    with ProgressBar(console, lines=False) as bar:
        bar.update(job.document)
        for event in job.events():
            if event.kind not in QUIET_KINDS:
                console.print(event_line(event), soft_wrap=True)
            if time.monotonic() - shown_at > REFRESH_SECONDS:
                shown_at = time.monotonic()
                bar.update(job.refresh().document)
        bar.update(job.refresh().document)
    return job


def outcome(document: dict[str, Any]) -> str:
    """How the job ended, and why if not well, in a line."""
    state = document["state"]
    if state == "succeeded":
        return f"Job {document['id']} succeeded."
    reason = document.get("status_reason") or "no reason given"
    message = document.get("status_message") or ""
    return f"Job {document['id']} {state}: {reason}. {message}".rstrip()
