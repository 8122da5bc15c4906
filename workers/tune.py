"""The only file that imports ray: places trials, packs them, runs them, stops them.

One `Tuner.fit` serves a whole job. A Searcher takes assignments from the job's conductor; a scheduler and a
callback carry the actors' messages to it. Ray's own directories are scratch: they are never the record.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import re
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune import Callback, Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search.spec import Resources
from workers.assignment import MESSAGE, Assignment, Completed, Failed, Message, Started, is_last
from workers.conductor import Answer, ClusterUnreachableError, Conductor, Death, NoResourcesError
from workers.trial_actor import OpenTrial, converse

OBJECT_STORE_BYTES = 100 * 2**20
LONGEST_TEMP_DIR = 40
PR_SET_PDEATHSIG = 1
# 127.0.0.1 itself Ray replaces by the address of a network interface, which may change while a job runs.
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
WARM_UP = "warm-up"
WARM = Completed(result={}, files=[], device_seconds=0.0)
T = TypeVar("T")


@contextmanager
def local_cluster(*, cpus: float | None, gpus: float | None, temp_dir: Path) -> Iterator[None]:
    """A Ray of one node, on loopback, that ends with this process.

    Call it from the main thread: the kernel kills Ray's processes when the thread that started them ends.
    """
    if len(str(temp_dir)) > LONGEST_TEMP_DIR:
        raise ClusterUnreachableError(
            f"ray_temp_dir {temp_dir} is too long: Ray's socket names below it must fit into 107 bytes; "
            f"give a directory of at most {LONGEST_TEMP_DIR} characters"
        )
    with _connected(
        num_cpus=int(cpus) if cpus else len(os.sched_getaffinity(0)),
        num_gpus=gpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _temp_dir=str(temp_dir),
        _node_ip_address=LOOPBACK,
    ):
        yield


@contextmanager
def joined_cluster(address: str) -> Iterator[None]:
    """A Ray that runs elsewhere; this job's actors there end when this process does."""
    with _connected(address=address):
        yield


@contextmanager
def _connected(**options: Any) -> Iterator[None]:
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ClusterUnreachableError(_advice(error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _advice(error: Exception) -> str:
    text = f"Ray: {type(error).__name__}: {error}"
    if "auth" in text.lower():
        text += "; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token on every node"
    return text


def require_resources(wanted: Resources) -> None:
    """Raise NoResourcesError if no single node can hold a trial: Tune itself would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, kind, amount in (
        ("CPU", "CPU cores", wanted.cpus),
        ("GPU", "GPUs", wanted.gpus),
        ("memory", "bytes of memory", wanted.memory_bytes or 0),
    ):
        largest = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if amount > largest:
            raise NoResourcesError(
                f"each trial needs {amount:g} {kind}, the largest of the cluster's {len(nodes)} nodes has "
                f"{largest:g}; ask for less in resources_per_trial, or add a larger node"
            )
    if not any(_fits(wanted, node) for node in nodes):
        raise NoResourcesError(
            f"no node of the cluster has {wanted.cpus:g} CPU cores, {wanted.gpus:g} GPUs and the memory that "
            "resources_per_trial asks for, all at once"
        )


def _bundle(wanted: Resources) -> dict[str, float]:
    bundle = {"CPU": wanted.cpus, "GPU": wanted.gpus, "memory": float(wanted.memory_bytes or 0)}
    return {name: amount for name, amount in bundle.items() if amount}


def _fits(wanted: Resources, node: dict[str, float]) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in _bundle(wanted).items())


class TrialActor(tune.Trainable):  # type: ignore[misc]
    """A process that carries out one trial after another: starting it and importing torch costs about 5 s.

    Torch is imported in the second step. In `setup` it would keep the actor pending so long that Tune gives
    its trial to the next free actor and throws the new one away, so that short trials run one by one.
    """

    @staticmethod
    def load() -> OpenTrial:
        """What opens a trial: imported in the actor, never in the driver."""
        from search.registry import load_everything
        from search.trial import open_trial

        load_everything()
        return open_trial

    def setup(self, config: dict[str, Any]) -> None:
        _die_with_parent()
        self._is_spoilt = False
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if self._is_spoilt:
            os._exit(1)  # the trial is assigned again, to a new process
        self.cleanup()
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        self._conversation = self._warm_up()
        self._has_gpu = False
        if config["trial"] != WARM_UP:
            self._converse(Assignment.model_validate_json(config["assignment"]))
        # Tune copies the configuration into every result.
        self.config: dict[str, Any] = {}

    def _warm_up(self) -> Generator[Message]:
        self.load()
        yield WARM

    def _converse(self, assignment: Assignment) -> None:
        node = f"{platform.node()}/{ray.get_runtime_context().get_node_id()[:8]}"
        self._conversation = converse(assignment, self.load, node=node)
        self._has_gpu = assignment.spec.resources_per_trial.gpus > 0

    def step(self) -> dict[str, Any]:
        message = next(self._conversation)
        # After an error inside CUDA every later call of this process fails, too.
        self._is_spoilt = isinstance(message, Failed) and message.code == "internal" and self._has_gpu
        return {"message": message.model_dump_json(), "done": is_last(message)}

    def cleanup(self) -> None:
        self._conversation.close()


def _die_with_parent() -> None:
    """A raylet that was killed leaves no trial at work, not even for the seconds that Ray needs to notice."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def execute(
    conductor: Conductor,
    *,
    resources: Resources,
    concurrent_trials: int,
    storage: Path,
    actor: type[TrialActor] = TrialActor,
) -> None:
    """Carry out trials until the conductor is done or halted; raises what the conductor raised."""
    exchange = _Exchange(conductor, warm_ups=concurrent_trials - 1)
    trainable = tune.with_resources(actor, tune.PlacementGroupFactory([_bundle(resources)]))
    for number in count():
        try:
            _tuner(trainable, exchange, concurrent_trials, storage / str(number)).fit()
            break
        except RuntimeError as error:
            # Tune 2.60 takes the death of a process by Ray's memory monitor for an error of its own.
            if not isinstance(error.__cause__, OutOfMemoryError):
                raise
            exchange.out_of_memory(str(error))
    if exchange.error is not None:
        raise exchange.error


def _tuner(trainable: Any, exchange: _Exchange, concurrent_trials: int, storage: Path) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_PlanSearcher(exchange),
            scheduler=_Scheduler(exchange, keep_actors=concurrent_trials),
            num_samples=-1,
            max_concurrent_trials=concurrent_trials,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            stop=_Halt(exchange),
            callbacks=[_Messages(exchange)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


class _Exchange:
    """Between Tune and the conductor: whatever the conductor raises ends the run and is raised after it."""

    def __init__(self, conductor: Conductor, *, warm_ups: int) -> None:
        self._conductor, self._warm_ups = conductor, warm_ups
        self._at_work: dict[str, int] = {}
        self.tune_trials: list[Any] = []
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its settings into its scratch directory; nobody reads them, and a job has no copy."""
        return {}

    @property
    def is_halted(self) -> bool:
        return self.error is not None or self._conductor.is_halted

    def next_assignment(self) -> Assignment | Answer:
        if self.is_halted:
            return Answer.DONE
        done: Assignment | Answer = Answer.DONE
        answer = self._guarded(self._conductor.next_assignment, otherwise=done)
        if isinstance(answer, Assignment):
            self._at_work[answer.trial_id] = 0
        return answer

    def may_warm_up(self) -> bool:
        """Whether another process may be started for trials to come; counts it as started."""
        if self._warm_ups <= 0 or not self._conductor.may_prepare:
            return False
        self._warm_ups -= 1
        return True

    def heard(self, trial: Any, result: dict[str, Any]) -> bool:
        message: Message = MESSAGE.validate_json(result["message"])
        trial_id: str = trial.config["trial"]
        if self.is_halted or trial_id == WARM_UP:
            return True
        if isinstance(message, Started):
            self._at_work[trial_id] = message.process_id
        stop = self._guarded(lambda: self._conductor.heard(trial_id, message), otherwise=True)
        if stop or is_last(message):
            self._at_work.pop(trial_id, None)
        return stop

    def lost(self, trial_id: str, death: Death) -> None:
        self._at_work.pop(trial_id, None)
        if not self.is_halted and trial_id != WARM_UP:
            self._guarded(lambda: self._conductor.lost(trial_id, death), otherwise=None)

    def out_of_memory(self, text: str) -> None:
        """Ray's memory monitor has killed some of the processes at work; the others have been ended, too."""
        killed = {int(number) for number in re.findall(r"\bpid=(\d+), actual memory used", text)}
        words = text.removeprefix("Caught unexpected exception: ").strip().splitlines()[0]
        death = Death(out_of_memory=True, message=words)
        for trial_id, process_id in list(self._at_work.items()):
            if process_id in killed or killed.isdisjoint(self._at_work.values()):
                self.lost(trial_id, death)
            else:
                del self._at_work[trial_id]
                self._conductor.interrupted(trial_id)

    def kill_actors(self) -> None:
        """A trial may be in the middle of a long step: Tune would wait 10 s for it."""
        for trial in self.tune_trials:
            if (actor := trial.temporary_state.ray_actor) is not None:
                ray.kill(actor)

    def _guarded(self, call: Callable[[], T], *, otherwise: T) -> T:
        try:
            return call()
        except Exception as error:
            self.error = error
            return otherwise


class _PlanSearcher(Searcher):  # type: ignore[misc]
    """Where Tune gets its trials from; their state is in SQL, so there is none to save."""

    def __init__(self, exchange: _Exchange) -> None:
        super().__init__()
        self._exchange = exchange

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        answer = self._exchange.next_assignment()
        if answer is Answer.WAIT:
            return {"trial": WARM_UP} if self._exchange.may_warm_up() else None
        if answer is Answer.DONE:
            finished: str = Searcher.FINISHED
            return finished
        return {"trial": answer.trial_id, "assignment": answer.model_dump_json()}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The end of a trial is heard by the callback."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def get_state(self) -> dict[str, Any]:
        return {}

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save."""


class _Scheduler(FIFOScheduler):  # type: ignore[misc]
    """Hears every message but a trial's last, and stops a trial when it must be."""

    def __init__(self, exchange: _Exchange, *, keep_actors: int) -> None:
        super().__init__()
        self._exchange, self._keep_actors = exchange, keep_actors

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stop = self._exchange.heard(trial, result)
        decision: str = TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Keep the actors while a stage waits for its last trial: a new one costs about 5 s.

        Tune keeps one idle actor of its own accord; how many more is not to be set: hence the private name.
        """
        if self._keep_actors:
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, self._keep_actors)
            self._keep_actors = 0


class _Messages(Callback):  # type: ignore[misc]
    """Hears each trial's last message, and of its process's death."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        if result["done"] and is_last(MESSAGE.validate_json(result["message"])):
            self._exchange.heard(trial, result)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._exchange.lost(trial.config["trial"], _death(trial))

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        self._exchange.tune_trials = trials


class _Halt(Stopper):  # type: ignore[misc]
    """Ends the whole run once the conductor is halted."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self._exchange.is_halted:
            self._exchange.kill_actors()
        return self._exchange.is_halted


def _death(trial: Any) -> Death:
    """From the file that Tune has just written; its own reader looks in storage, where it is not yet."""
    file = Path(trial.local_path, trial.run_metadata.error_filename or "error.txt")
    text = file.read_text() if file.exists() else "its process ended without a word"
    words = [line.strip() for line in text.splitlines() if line.strip()][-1]
    return Death(out_of_memory=False, message=words.partition(" Some common causes")[0])
