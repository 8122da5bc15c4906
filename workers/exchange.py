"""Between Tune and the conductor: who is at work where, and what each side has to say. Imports no ray.

Whatever the conductor raises ends the run, and is raised after it: Tune would wrap it beyond recognition.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from workers.assignment import MESSAGE, Assignment, Completed, Message, Started, is_last
from workers.conductor import Answer, Conductor, Death

WARM_UP = "warm-up"
WARM = Completed(result={}, files=[], device_seconds=0.0)
T = TypeVar("T")


@dataclass
class AtWork:
    """A trial, or a warm-up, that Tune has been given."""

    slot: int
    process_id: int = 0


class Exchange:
    """Hands assignments over, and messages back.

    With `fixed_slots` each of the `slots` trials at once has a place of its own, which keeps its process.
    Else all share one place, and Tune gives a free process to whichever trial waits. It also throws a process
    away that is still starting when another becomes free, so that trials shorter than a start run one by
    one; but where resources may not suffice for all slots, nobody waits for a place while another idles.
    """

    def __init__(self, conductor: Conductor, *, slots: int, fixed_slots: bool) -> None:
        self._conductor = conductor
        self._fixed_slots = fixed_slots
        self._free_slots = list(range(slots))
        self._warm_ups = slots - 1
        self._at_work: dict[str, AtWork] = {}
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its settings into its scratch directory; nobody reads them, and a job has no copy."""
        return {}

    @property
    def is_halted(self) -> bool:
        """Whether everything must end now."""
        return self.error is not None or self._conductor.is_halted

    def next_config(self) -> dict[str, Any] | Answer:
        """The configuration of Tune's next trial: `trial`, `slot` and, but for a warm-up, `assignment`."""
        if self.is_halted:
            return Answer.DONE
        done: Assignment | Answer = Answer.DONE
        answer = self._guarded(self._conductor.next_assignment, otherwise=done)
        if isinstance(answer, Assignment):
            return {**self._place(answer.trial_id), "assignment": answer.model_dump_json()}
        if answer is Answer.WAIT and self._may_warm_up():
            self._warm_ups -= 1
            return self._place(f"{WARM_UP} {self._warm_ups}")
        return answer

    def heard(self, trial_id: str, text: str) -> bool:
        """A trial's message, as JSON; True if the trial must be stopped."""
        message: Message = MESSAGE.validate_json(text)
        if isinstance(message, Started):
            self._at_work[trial_id].process_id = message.process_id
        if self.is_halted:
            return True
        stop = not is_warm_up(trial_id) and self._guarded(
            lambda: self._conductor.heard(trial_id, message), otherwise=True
        )
        if stop or is_last(message):
            self._leave(trial_id)
        return stop

    def lost(self, trial_id: str, death: Death) -> None:
        """A trial's process has died."""
        self._leave(trial_id)
        if not self.is_halted and not is_warm_up(trial_id):
            self._guarded(lambda: self._conductor.lost(trial_id, death), otherwise=None)

    def out_of_memory(self, text: str) -> None:
        """Ray's memory monitor has killed some of the processes at work; the others have been ended, too."""
        killed = {int(number) for number in re.findall(r"\bpid=(\d+), actual memory used", text)}
        words = text.removeprefix("Caught unexpected exception: ").strip().splitlines()[0]
        victims = [trial for trial, at_work in self._at_work.items() if at_work.process_id in killed]
        for trial_id in list(self._at_work):
            if trial_id in victims or not victims:
                self.lost(trial_id, Death(out_of_memory=True, message=words))
            else:
                self._leave(trial_id)
                if not is_warm_up(trial_id):
                    self._conductor.interrupted(trial_id)

    def _may_warm_up(self) -> bool:
        """Whether another process may be started for trials to come."""
        return self._warm_ups > 0 and self._conductor.may_prepare

    def _place(self, trial_id: str) -> dict[str, Any]:
        slot = heapq.heappop(self._free_slots) if self._fixed_slots else 0
        self._at_work[trial_id] = AtWork(slot)
        return {"trial": trial_id, "slot": slot}

    def _leave(self, trial_id: str) -> None:
        at_work = self._at_work.pop(trial_id, None)
        if at_work is not None and self._fixed_slots:
            heapq.heappush(self._free_slots, at_work.slot)

    def _guarded(self, call: Callable[[], T], *, otherwise: T) -> T:
        try:
            return call()
        except Exception as error:
            self.error = error
            return otherwise


def is_warm_up(trial_id: str) -> bool:
    """Whether Tune's trial is none of the job's: it only has its process import what trials need."""
    return trial_id.startswith(WARM_UP)
