"""What a step of a replay costs over a step of plain KD: both runs step by step in turn, in one process."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import islice
from statistics import median

import torch

from benchmarks.pool import Place
from search.commands.local_job import LocalJob
from search.records import Proposal, TrialRecord
from search.spec import JobSpec
from search.trial import open_trial

BLOCK = 20
"""Steps whose median counts: a cache that is read for the first time, or a neighbour's load, drops out."""


def replay_cost(
    document: str, place: Place, needed: tuple[TrialRecord, ...], replay: Proposal, plain: Proposal
) -> float:
    """Seconds of the whole replay over those of plain KD, as the sum of blocks' medians."""
    replayed, reference = seconds_in_turn(document, place, needed, (replay, plain))
    return sum(blocks(replayed)) / sum(blocks(reference))


def seconds_in_turn(
    document: str, place: Place, needed: Sequence[TrialRecord], proposals: Sequence[Proposal]
) -> list[list[float]]:
    """Seconds of every step of each run, the runs' steps taking turns; all have as many steps."""
    spec = JobSpec.model_validate_json(document)
    job = LocalJob(spec, place.directory, datasets_file=place.datasets_file, records=list(needed))
    runs = [
        open_trial(
            spec,
            proposal.key,
            proposal.parameters,
            job.places(proposal),
            threads=place.threads,
            device=place.device,
        ).steps()
        for proposal in proposals
    ]
    seconds: list[list[float]] = [[] for _ in runs]
    while True:
        started = _now(place.device)
        for taken, run in zip(seconds, runs, strict=True):
            if not list(islice(run, 1)):
                return seconds
            ended = _now(place.device)
            taken.append(ended - started)
            started = ended


def _now(device: str) -> float:
    """The clock, once the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def blocks(seconds: Sequence[float], *, size: int = BLOCK) -> Iterable[float]:
    """Medians of consecutive blocks; the first step, which sets up, is left out."""
    rest = seconds[1:]
    return [median(rest[start : start + size]) for start in range(0, len(rest), size)]
