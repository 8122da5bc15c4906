"""Short ways to assignments and their messages."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from search.recipe import constant
from search.records import RunParameters, StageName
from search.spec import JobSpec
from tests.search.planning.simulated_job import make_spec
from workers.assignment import Assignment, Message

SPEC = make_spec(training={"report_every_steps": 1})


def run_parameters(*, epochs: int = 3) -> dict[str, Any]:
    """Of a student trained alone, for a search trial."""
    return RunParameters(process=constant(), epochs=epochs).model_dump(mode="json")


def make_assignment(root: Path, *, spec: JobSpec = SPEC, **changes: Any) -> Assignment:
    """A search trial of 9 tiny steps, with its files below `root`."""
    values: dict[str, Any] = {
        "job_id": "job_1",
        "trial_id": "trl_1",
        "attempt": 1,
        "stage": StageName.SEARCH,
        "arm": "searched",
        "seed": 0,
        "index": 0,
        "parameters": run_parameters(),
        "artifact_root": str(root / "artifacts"),
        "cache_root": root / "cache",
        **changes,
    }
    return Assignment(spec=spec, **values)


def take(conversation: Generator[Message], count: int) -> list[Message]:
    """The next messages, then the process is gone."""
    heard = [next(conversation) for _ in range(count)]
    conversation.close()
    return heard


def kinds(messages: Iterable[Message]) -> list[str]:
    """What the messages are."""
    return [message.kind for message in messages]
