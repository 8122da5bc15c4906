"""Execution without Ray: the conductor's other side in one process, one message of one trial at a time."""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass, field

from tests.workers.tiny_trials import TinyTrials
from workers.assignment import Assignment, Message, is_last
from workers.conductor import Answer, Conductor
from workers.trial_actor import converse


@dataclass
class AtWork:
    """A trial in its "actor"."""

    assignment: Assignment
    conversation: Generator[Message]


@dataclass
class InProcessExecutor:
    """Keeps to the order of events of `workers.tune`; which trial speaks next is drawn."""

    conductor: Conductor
    trials: TinyTrials
    slots: int = 2
    seed: int = 0
    at_work: list[AtWork] = field(default_factory=list)
    assigned: list[Assignment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def run(self, *, most_messages: int = 100_000) -> bool:
        """Until the conductor is done or halted (True), or so many messages have been heard (False)."""
        return any(self.conductor.is_halted or not self.step() for _ in range(most_messages))

    def step(self) -> bool:
        """Fill the free slots, hear one message; False when nothing is left to do."""
        while len(self.at_work) < self.slots and isinstance(
            answer := self.conductor.next_assignment(), Assignment
        ):
            self.assigned.append(answer)
            self.at_work.append(AtWork(answer, converse(answer, self.trials.load, node="here")))
        if not self.at_work:
            assert answer is Answer.DONE, "the conductor waits for nothing"
            return False
        work = self.random.choice(self.at_work)
        message = next(work.conversation)
        if self.conductor.heard(work.assignment.trial_id, message) or is_last(message):
            work.conversation.close()
            self.at_work.remove(work)
        return True

    def kill(self) -> None:
        """All processes at once, wherever they are: no trial gets to do anything more."""
        for work in self.at_work:
            work.conversation.close()
        self.at_work.clear()
