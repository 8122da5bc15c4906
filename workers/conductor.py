"""The seam between a job and what executes its trials: the executor asks, the conductor answers and records.

`workers.run_job` is the conductor, `workers.tune` the executor. Neither torch nor ray is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from workers.assignment import Assignment, Message


class Answer(Enum):
    """What a conductor says when it has no assignment."""

    WAIT = "wait"
    DONE = "done"


@dataclass(frozen=True)
class Death:
    """How a trial's process ended that sent no last message."""

    out_of_memory: bool
    message: str


class Conductor(Protocol):
    """A job, as the executor sees it. Called from one thread only."""

    @property
    def is_halted(self) -> bool:
        """Whether everything must end now, whatever is at work."""
        ...

    @property
    def may_prepare(self) -> bool:
        """Whether processes may be started for trials that are yet to come: they hold their resources."""
        ...

    def next_assignment(self) -> Assignment | Answer:
        """The next trial to be started; WAIT while only a running one's end can bring more."""
        ...

    def heard(self, trial_id: str, message: Message) -> bool:
        """Record a trial's message; True if the trial must be stopped."""
        ...

    def lost(self, trial_id: str, death: Death) -> None:
        """A trial's process has died; the trial may be assigned again."""
        ...

    def interrupted(self, trial_id: str) -> None:
        """A trial's process was ended through no fault of its own; the trial is to be assigned again."""
        ...


class NoResourcesError(Exception):
    """No node of the cluster can ever hold one trial; the message says what is asked and what there is."""


class ClusterUnreachableError(Exception):
    """The Ray cluster could not be started or joined; the message says what to set."""
