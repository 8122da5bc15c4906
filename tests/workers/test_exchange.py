"""The exchange without Ray: slots, warm-ups, and who is lost when memory runs out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.workers.assignments import make_assignment
from workers.assignment import Assignment, Completed, Message, Started
from workers.conductor import Answer, Death
from workers.exchange import WARM, Exchange, is_warm_up

END = Completed(result={}, files=[], device_seconds=1.0).model_dump_json()


@dataclass
class Script:
    """A conductor that gives these answers, and keeps what it hears."""

    root: Path
    answers: deque[str | Answer] = field(default_factory=deque)
    may_prepare: bool = True
    is_halted: bool = False
    heard_of: list[tuple[str, str]] = field(default_factory=list)
    deaths: list[tuple[str, Death]] = field(default_factory=list)
    interruptions: list[str] = field(default_factory=list)

    def next_assignment(self) -> Assignment | Answer:
        answer = self.answers.popleft() if self.answers else Answer.WAIT
        return answer if isinstance(answer, Answer) else make_assignment(self.root, trial_id=answer)

    def heard(self, trial_id: str, message: Message) -> bool:
        self.heard_of.append((trial_id, message.kind))
        return False

    def lost(self, trial_id: str, death: Death) -> None:
        self.deaths.append((trial_id, death))

    def interrupted(self, trial_id: str) -> None:
        self.interruptions.append(trial_id)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def take(exchange: Exchange) -> tuple[str, int]:
    config = exchange.next_config()
    assert isinstance(config, dict)
    return config["trial"], config["slot"]


class TestSlots:
    def test_a_trial_takes_the_first_free_one(self, script: Script) -> None:
        script.answers.extend(["a", "b", "c", "d"])
        exchange = Exchange(script, slots=3, fixed_slots=True)
        assert [take(exchange), take(exchange), take(exchange)] == [("a", 0), ("b", 1), ("c", 2)]
        exchange.heard("b", END)
        assert take(exchange) == ("d", 1)

    def test_a_death_frees_it_too(self, script: Script) -> None:
        script.answers.extend(["a", "a"])
        exchange = Exchange(script, slots=1, fixed_slots=True)
        take(exchange)
        exchange.lost("a", Death(out_of_memory=False, message="killed"))
        assert take(exchange) == ("a", 0)

    def test_in_a_shared_cluster_all_are_one(self, script: Script) -> None:
        script.answers.extend(["a", "b"])
        exchange = Exchange(script, slots=2, fixed_slots=False)
        assert [take(exchange), take(exchange)] == [("a", 0), ("b", 0)]


class TestWarmUp:
    def test_fills_the_slots_that_stand_empty_once(self, script: Script) -> None:
        script.answers.append("teacher")
        exchange = Exchange(script, slots=3, fixed_slots=True)
        assert take(exchange) == ("teacher", 0)
        warm_ups = [take(exchange), take(exchange)]
        assert [slot for _, slot in warm_ups] == [1, 2]
        assert all(is_warm_up(trial_id) for trial_id, _ in warm_ups)
        assert exchange.next_config() is Answer.WAIT
        exchange.heard(warm_ups[0][0], WARM.model_dump_json())
        assert exchange.next_config() is Answer.WAIT
        script.answers.append("a")
        assert take(exchange) == ("a", 1)
        assert script.heard_of == [], "the job hears nothing of it"

    def test_waits_until_it_may(self, script: Script) -> None:
        exchange = Exchange(script, slots=2, fixed_slots=True)
        script.may_prepare = False
        assert exchange.next_config() is Answer.WAIT
        script.may_prepare = True
        assert is_warm_up(take(exchange)[0])

    def test_may_die_unnoticed(self, script: Script) -> None:
        exchange = Exchange(script, slots=2, fixed_slots=True)
        trial_id, _ = take(exchange)
        exchange.lost(trial_id, Death(out_of_memory=False, message="killed"))
        assert script.deaths == []


class TestOutOfMemory:
    """Ray's memory monitor kills processes, and Tune 2.60 ends the whole run with a RuntimeError."""

    TEXT = (
        "Caught unexpected exception: 1 worker(s) were killed due to the node running low on memory.\n"
        "Selected to kill: (Actor(89): task name=X.__init__, pid={pid}, actual memory used=2.0GB)\n"
    )

    @pytest.fixture
    def exchange(self, script: Script) -> Exchange:
        """Two trials at work, in the processes 71 and 72."""
        script.answers.extend(["a", "b"])
        exchange = Exchange(script, slots=2, fixed_slots=True)
        for process_id in (71, 72):
            trial_id, _ = take(exchange)
            exchange.heard(trial_id, Started(node="n", process_id=process_id, step=0).model_dump_json())
        return exchange

    @pytest.mark.parametrize(("killed", "victim", "other"), [(71, "a", "b"), (72, "b", "a")])
    def test_the_one_that_was_killed_is_lost_and_the_other_interrupted(
        self, script: Script, exchange: Exchange, killed: int, victim: str, other: str
    ) -> None:
        exchange.out_of_memory(self.TEXT.format(pid=killed))
        ((trial_id, death),) = script.deaths
        assert (trial_id, script.interruptions) == (victim, [other])
        assert death.out_of_memory
        assert death.message == "1 worker(s) were killed due to the node running low on memory."

    def test_if_nobody_knows_which_all_are_lost(self, script: Script, exchange: Exchange) -> None:
        exchange.out_of_memory("killed, and not a word of whom")
        assert [trial_id for trial_id, _ in script.deaths] == ["a", "b"]

    def test_the_slots_are_free_again(self, script: Script, exchange: Exchange) -> None:
        exchange.out_of_memory(self.TEXT.format(pid=71))
        script.answers.extend(["c", "d"])
        assert [take(exchange), take(exchange)] == [("c", 0), ("d", 1)]


class TestError:
    def test_of_the_conductor_halts_and_is_kept(self, script: Script) -> None:
        def fail() -> Assignment:
            raise LookupError("the lease is lost")

        exchange = Exchange(script, slots=1, fixed_slots=True)
        script.next_assignment = fail  # type: ignore[method-assign]
        assert exchange.next_config() is Answer.DONE
        assert exchange.is_halted
        assert isinstance(exchange.error, LookupError)

    def test_after_a_halt_every_trial_is_stopped_and_none_is_heard(self, script: Script) -> None:
        script.answers.append("a")
        exchange = Exchange(script, slots=1, fixed_slots=True)
        take(exchange)
        script.is_halted = True
        assert exchange.heard("a", END)
        assert script.heard_of == []
        assert exchange.next_config() is Answer.DONE
