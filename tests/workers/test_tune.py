"""The executor on a real Ray: actors are reused without idling, stop, die, and end when they must."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.spec import Resources
from tests.end_to_end.installation import wait_until
from tests.workers.assignments import SPEC, make_assignment, run_parameters
from tests.workers.tiny_trials import TinyRun, TinyTrials
from workers import ray_environment
from workers.assignment import Assignment, Completed, Failed, Message, Started
from workers.conductor import Answer, Conductor, Death, NoResourcesError

STEP_SECONDS = 0.02


@pytest.fixture(scope="module")
def tune(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`workers.tune` with a local Ray of two cores."""
    before = dict(os.environ)
    job_id = f"job_{uuid.uuid4().hex}"  # its own, for another run of these tests may be at work
    ray_environment.prepare(job_id=job_id, is_local=True)
    os.environ.update({"RAY_memory_monitor_refresh_ms": "0"})
    from workers import tune

    # Below /tmp itself: the names of sockets are limited to 107 bytes.
    directory = Path(f"/tmp/lmb-tune-{os.getpid()}")
    with tune.local_cluster(cpus=2, gpus=0, temp_dir=directory):
        yield tune
    ray_environment.end_processes_of(job_id)
    shutil.rmtree(directory, ignore_errors=True)
    os.environ.clear()
    os.environ.update(before)


def slowly(run: TinyRun) -> None:
    """A step that takes some time; the parameters' `choices` may ask for trouble at the sixth."""
    time.sleep(STEP_SECONDS)
    trouble = run.parameters["choices"].get("trouble")
    if run.step == 6 and trouble == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if run.step == 6 and trouble == "hang":
        time.sleep(600)
    if run.step == 6 and trouble == "fail":
        raise ZeroDivisionError("planted")


@pytest.fixture(scope="module")
def actor(tune: Any) -> type:
    """An actor of tiny trials."""

    class TinyActor(tune.TrialActor):
        @staticmethod
        def load() -> Any:
            return TinyTrials(on_step=slowly).open

    return TinyActor


@dataclass
class Stages:
    """A conductor of stages, each of some trials: the next begins when all of the last have ended."""

    root: Path
    counts: list[int]
    trouble: dict[str, str] = field(default_factory=dict)
    stop_at: dict[str, int] = field(default_factory=dict)
    heard_of: dict[str, list[Message]] = field(default_factory=dict)
    deaths: list[tuple[str, Death]] = field(default_factory=list)
    processes: dict[str, int] = field(default_factory=dict)
    idle_seconds: list[float] = field(default_factory=list)
    most_at_work: int = 0
    is_halted: bool = False
    may_prepare: bool = True
    _free_since: dict[int, float] = field(default_factory=dict)
    _at_work: set[str] = field(default_factory=set)
    _again: list[str] = field(default_factory=list)

    def next_assignment(self) -> Assignment | Answer:
        if self._again:
            return self._assign(self._again.pop())
        if not self.counts:
            return Answer.WAIT if self._at_work else Answer.DONE
        if self.counts[0] == 0:
            if self._at_work:
                return Answer.WAIT
            self.counts.pop(0)
            return self.next_assignment()
        self.counts[0] -= 1
        return self._assign(f"trl_{len(self.heard_of)}")

    def _assign(self, trial_id: str) -> Assignment:
        self.heard_of.setdefault(trial_id, [])
        self._at_work.add(trial_id)
        self.most_at_work = max(self.most_at_work, len(self._at_work))
        parameters = {**run_parameters(epochs=4), "choices": {"trouble": self.trouble.get(trial_id)}}
        return make_assignment(self.root, trial_id=trial_id, parameters=parameters)

    def heard(self, trial_id: str, message: Message) -> bool:
        self.heard_of[trial_id].append(message)
        if isinstance(message, Started):
            self.processes[trial_id] = message.process_id
            if message.process_id in self._free_since:
                self.idle_seconds.append(time.monotonic() - self._free_since[message.process_id])
        steps = sum(one.kind == "reported" for one in self.heard_of[trial_id])
        stop = self.stop_at.get(trial_id) == steps
        if stop or message.kind in ("completed", "failed"):
            self._at_work.discard(trial_id)
            self._free_since[self.processes[trial_id]] = time.monotonic()
        return stop

    def lost(self, trial_id: str, death: Death) -> None:
        self.deaths.append((trial_id, death))
        self.trouble.pop(trial_id, None)
        self._at_work.discard(trial_id)
        self._again.append(trial_id)

    def interrupted(self, trial_id: str) -> None:
        self._again.append(trial_id)

    def steps(self, trial_id: str) -> list[int]:
        return [one.step for one in self.heard_of[trial_id] if one.kind == "reported"]


def run(tune: Any, actor: type, conductor: Conductor, root: Path) -> None:
    tune.execute(
        conductor,
        resources=SPEC.resources_per_trial,
        concurrent_trials=2,
        storage=root / "scratch",
        is_exclusive=True,
        actor=actor,
    )


def test_two_processes_serve_all_stages_and_hardly_idle(tune: Any, actor: type, tmp_path: Path) -> None:
    stages = Stages(tmp_path, [1, 4, 3, 6, 1])
    run(tune, actor, stages, tmp_path)
    assert {trial: stages.steps(trial) for trial in stages.heard_of} == {
        f"trl_{number}": list(range(1, 13)) for number in range(15)
    }
    assert all(isinstance(heard[-1], Completed) for heard in stages.heard_of.values())
    assert stages.most_at_work == 2
    assert len(set(stages.processes.values())) == 2, "each process imports torch, which takes seconds"
    within_stages = sorted(stages.idle_seconds)[: len(stages.idle_seconds) // 2]
    assert max(within_stages) < 0.25


@pytest.fixture(scope="module")
def stages(tune: Any, actor: type, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """One run for all, because new processes take seconds: each trial in it asks for another trouble."""
    root = tmp_path_factory.mktemp("trouble")
    stages = Stages(root, [4], trouble={"trl_0": "fail", "trl_2": "die"}, stop_at={"trl_1": 5})
    run(tune, actor, stages, root)
    return stages


class TestTrouble:
    """A trial that fails, one that is stopped, one whose process dies, and one that nothing happens to."""

    def test_a_failure_spares_the_process(self, stages: Stages) -> None:
        failed = stages.heard_of["trl_0"][-1]
        assert isinstance(failed, Failed)
        assert (failed.code, failed.message) == ("internal", "ZeroDivisionError: planted")
        later = [one for other in ("trl_2", "trl_3") for one in stages.heard_of[other]]
        served = {one.process_id for one in later if isinstance(one, Started)}
        assert stages.processes["trl_0"] in served

    def test_a_trial_is_stopped_after_the_report_that_decides_it(self, stages: Stages) -> None:
        assert stages.steps("trl_1") == [1, 2, 3, 4, 5]

    def test_a_killed_process_is_told_and_its_trial_goes_on(self, stages: Stages) -> None:
        ((trial_id, death),) = stages.deaths
        assert trial_id == "trl_2"
        assert not death.out_of_memory
        assert "process has died" in death.message
        assert stages.steps("trl_2") == [*range(1, 6), *range(4, 13)], "from the checkpoint at step 3"
        assert isinstance(stages.heard_of["trl_2"][-1], Completed)

    def test_the_others_do_not_notice(self, stages: Stages) -> None:
        assert stages.steps("trl_3") == list(range(1, 13))
        assert isinstance(stages.heard_of["trl_3"][-1], Completed)


def test_a_halt_ends_even_a_trial_that_does_not_answer(tune: Any, actor: type, tmp_path: Path) -> None:
    halted_at: list[float] = []

    class Halting(Stages):
        @property
        def is_halted(self) -> bool:
            stuck = len(self.heard_of.get("trl_0", ())) == 6
            if stuck and not halted_at:
                halted_at.append(time.monotonic())
            return bool(halted_at)

        @is_halted.setter
        def is_halted(self, value: bool) -> None:
            """The dataclass sets its default."""

    stages = Halting(tmp_path, [2], trouble={"trl_0": "hang", "trl_1": "hang"})
    run(tune, actor, stages, tmp_path)
    assert time.monotonic() - halted_at[0] < 5.0
    processes = stages.processes.values()
    wait_until(lambda: not any(map(psutil.pid_exists, processes)), seconds=5, what="the end of the actors")


def test_what_the_conductor_raises_ends_the_run_and_comes_out(tune: Any, actor: type, tmp_path: Path) -> None:
    class Broken(Stages):
        def heard(self, trial_id: str, message: Message) -> bool:
            if message.kind == "reported":
                raise LookupError("the lease is lost")
            return super().heard(trial_id, message)

    with pytest.raises(LookupError, match="the lease is lost"):
        run(tune, actor, Broken(tmp_path, [2]), tmp_path)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (Resources(gpus=1.0), "needs 1 GPU, the largest node of the cluster has 0;"),
        (Resources(cpus=64.0), "needs 64 CPU cores, the largest node of the cluster has 2;"),
        (Resources(memory_bytes=10**12), r"needs 1e\+12 bytes, the largest"),
    ],
    ids=["gpus", "cpus", "memory"],
)
def test_more_than_any_node_has_is_refused_in_words(tune: Any, wanted: Resources, sentence: str) -> None:
    with pytest.raises(NoResourcesError) as refused:
        tune.require_resources(wanted)
    assert re.search(sentence, str(refused.value))
    assert "resources_per_trial" in str(refused.value)


def test_what_a_node_has_is_granted(tune: Any) -> None:
    tune.require_resources(Resources(cpus=2.0, memory_bytes=10**6))


@pytest.mark.parametrize(("cpus", "times"), [(1.0, 2), (1.5, 1), (0.1, 20), (64.0, 1)])
def test_there_are_as_many_slots_as_fit(tune: Any, cpus: float, times: int) -> None:
    """With more of them a trial would wait for the resources that an idle process of another slot holds."""
    assert tune._room_for(Resources(cpus=cpus)) == times


def test_a_directory_too_long_for_sockets_is_refused(tune: Any, tmp_path: Path) -> None:
    from workers.conductor import ClusterUnreachableError

    with (
        pytest.raises(ClusterUnreachableError, match="107 bytes"),
        tune.local_cluster(cpus=1, gpus=0, temp_dir=tmp_path / ("x" * 40)),
    ):
        pass
