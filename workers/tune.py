"""The only file that imports ray: places trials, packs them, runs them, stops them.

One `Tuner.fit` serves a whole job. A Searcher takes assignments from the job's conductor; a scheduler and a
callback carry the actors' messages to it. Ray's own directories are scratch: they are never the record.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError
from ray.tune import Callback, Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search.spec import Resources
from workers.assignment import MESSAGE, Assignment, Failed, Message, is_last
from workers.conductor import Answer, ClusterUnreachableError, Conductor, Death, NoResourcesError
from workers.exchange import WARM, Exchange, is_warm_up
from workers.trial_actor import OpenTrial, converse

OBJECT_STORE_BYTES = 100 * 2**20
LONGEST_TEMP_DIR = 40
PR_SET_PDEATHSIG = 1
# 127.0.0.1 itself Ray replaces by the address of a network interface, which may change while a job runs.
LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"


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
    for name, unit, amount in (
        ("CPU", "CPU core", wanted.cpus),
        ("GPU", "GPU", wanted.gpus),
        ("memory", "byte", wanted.memory_bytes or 0),
    ):
        largest = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if amount > largest:
            raise NoResourcesError(
                f"each trial needs {amount:g} {unit}{'' if amount == 1 else 's'}, the largest node of the "
                f"cluster has {largest:g}; ask for less in resources_per_trial, or add a larger node"
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


def _room_for(wanted: Resources) -> int:
    """How many trials the empty cluster holds at once; at least one, as `require_resources` has made sure."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, sum(_times(_bundle(wanted), node) for node in nodes))


def _times(bundle: dict[str, float], node: dict[str, float]) -> int:
    """How often the bundle fits into the node. A thousandth of slack: ten of 0.1 cores fit into one core."""
    return min(int(node.get(name, 0.0) / amount + 1e-3) for name, amount in bundle.items())


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
        if not is_warm_up(config["trial"]):
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
    is_exclusive: bool,
    actor: type[TrialActor] = TrialActor,
) -> None:
    """Carry out trials until the conductor is done or halted; raises what the conductor raised.

    `is_exclusive`: whether nobody else uses the cluster, so that what fits into it fits at any time.
    """
    slots = min(concurrent_trials, _room_for(resources)) if is_exclusive else concurrent_trials
    exchange = Exchange(conductor, slots=slots, fixed_slots=is_exclusive)
    trainable = tune.with_resources(actor, lambda config: _Place(_bundle(resources), config["slot"]))
    for number in count():
        try:
            _tuner(trainable, exchange, slots=slots, storage=storage / str(number)).fit()
            break
        except RuntimeError as error:
            # Tune 2.60 takes the death of a process by Ray's memory monitor for an error of its own.
            if not isinstance(error.__cause__, OutOfMemoryError):
                raise
            exchange.out_of_memory(str(error))
    if exchange.error is not None:
        raise exchange.error


def _tuner(trainable: Any, exchange: Exchange, *, slots: int, storage: Path) -> tune.Tuner:
    messages = _Messages(exchange)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_PlanSearcher(exchange),
            scheduler=_Scheduler(exchange, slots=slots),
            num_samples=-1,
            max_concurrent_trials=slots,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            stop=_Halt(messages),
            callbacks=[messages],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


class _Place(tune.PlacementGroupFactory):  # type: ignore[misc]
    """What a trial reserves, in a slot: Tune reuses a process only for trials whose requests are equal."""

    def __init__(self, bundle: dict[str, float], slot: int) -> None:
        super().__init__([bundle])
        self._slot = slot

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Place) and self._slot == other._slot and bool(super().__eq__(other))

    def __hash__(self) -> int:
        return hash((self._slot, super().__hash__()))


class _PlanSearcher(Searcher):  # type: ignore[misc]
    """Where Tune gets its trials from; their state is in SQL, so there is none to save."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self._exchange = exchange

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        answer = self._exchange.next_config()
        if answer is Answer.DONE:
            finished: str = Searcher.FINISHED
            return finished
        return None if isinstance(answer, Answer) else answer

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

    def __init__(self, exchange: Exchange, *, slots: int) -> None:
        super().__init__()
        self._exchange, self._slots = exchange, slots
        self._kept: set[Any] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stop = self._exchange.heard(trial.config["trial"], result["message"])
        decision: str = TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Keep the actors while a stage waits for its last trial: a new one costs about 5 s.

        Tune keeps one idle actor of its own accord; how many more is not to be set: hence the private name.
        """
        place = trial.placement_group_factory
        if place not in self._kept:
            self._kept.add(place)
            tune_controller._actor_cache.increase_max(place, self._slots)


class _Messages(Callback):  # type: ignore[misc]
    """Hears each trial's last message, and of its process's death."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._trials: list[Any] = []

    def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
        self._trials = trials

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        if result["done"] and is_last(MESSAGE.validate_json(result["message"])):
            self.exchange.heard(trial.config["trial"], result["message"])

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.exchange.lost(trial.config["trial"], _death(trial))

    def kill_actors(self) -> None:
        """A trial may be in the middle of a long step: Tune would wait 10 s for it."""
        for trial in self._trials:
            if (actor := trial.temporary_state.ray_actor) is not None:
                ray.kill(actor)


class _Halt(Stopper):  # type: ignore[misc]
    """Ends the whole run once the conductor is halted."""

    def __init__(self, messages: _Messages) -> None:
        self._messages = messages

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        is_halted = self._messages.exchange.is_halted
        if is_halted:
            self._messages.kill_actors()
        return is_halted


def _death(trial: Any) -> Death:
    """From the file that Tune has just written; its own reader looks in storage, where it is not yet."""
    file = Path(trial.local_path, trial.run_metadata.error_filename or "error.txt")
    text = file.read_text() if file.exists() else "its process ended without a word"
    words = [line.strip() for line in text.splitlines() if line.strip()][-1]
    return Death(out_of_memory=False, message=words.partition(" Some common causes")[0])
