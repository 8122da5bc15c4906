"""Trials of a job in a pool of spawned processes, each trial on one device or on one thread.

Two processes of one thread each train small models faster than one process of two threads: the threads of a
small model wait for each other at every operation. Results come back as the plan's own records.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from search.commands.local_job import LocalJob
from search.records import Proposal, TrialRecord
from search.registry import load_everything
from search.spec import JobSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a job's trials work."""

    directory: Path
    datasets_file: Path
    device: str = "cpu"
    threads: int = 1


class Pool:
    """So many trials at once; a context manager. `imports`: modules whose methods the trials need."""

    def __init__(self, processes: int, *, imports: Sequence[str] = ()) -> None:
        # Read by OpenMP when torch is loaded in the new process.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        self.processes = processes
        self._executor = ProcessPoolExecutor(
            processes,
            mp_context=get_context("spawn"),
            initializer=_set_up,
            initargs=(os.getpid(), tuple(imports)),
        )
        self._running: set[Future[TrialRecord]] = set()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for process in list(self._executor._processes.values()):
                process.terminate()
        self._executor.shutdown(wait=error is None, cancel_futures=True)

    def submit(
        self,
        spec: JobSpec,
        place: Place,
        proposal: Proposal,
        *,
        needed: Sequence[TrialRecord] = (),
        max_steps: int | None = None,
    ) -> None:
        """Queue a trial; `needed` are the records of earlier trials whose files it reads."""
        document = spec.model_dump_json()
        self._running.add(self._executor.submit(_trial, document, place, proposal, tuple(needed), max_steps))

    def alone(self, function: Callable[..., T], *arguments: object) -> T:
        """A function's value from a process of the pool, while the others wait."""
        assert not self._running, "something is running"
        return self._executor.submit(function, *arguments).result()

    def completed(self, *, at_least: int = 1) -> list[TrialRecord]:
        """Wait until a trial has ended, and give all that have. Raises what a trial raised."""
        found: list[TrialRecord] = []
        while self._running and len(found) < at_least:
            done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
            found += [future.result() for future in done]
        return found

    def drain(self) -> Iterator[TrialRecord]:
        """All trials that were submitted, as they end."""
        while self._running:
            yield from self.completed()


def _trial(
    document: str,
    place: Place,
    proposal: Proposal,
    needed: tuple[TrialRecord, ...],
    max_steps: int | None,
) -> TrialRecord:
    """In the pool's process: the trial as `search.commands.local_job` runs it."""
    job = LocalJob(
        JobSpec.model_validate_json(document),
        place.directory,
        datasets_file=place.datasets_file,
        threads=place.threads,
        device=place.device,
        max_steps=max_steps,
        records=list(needed),
    )
    return job.trial(proposal)


def _set_up(parent: int, imports: Sequence[str]) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    load_everything()
    for module in imports:
        importlib.import_module(module)


def _end_with(parent: int) -> None:
    """Trials end with the benchmark, however it ends."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
