"""What runs cost: predicted from preflight's measurements, and from the job's own trials once there are some.

Imports no torch. All costs are wall seconds of one trial; times `devices_per_trial` they are device-seconds.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Any

from search.planning.history import History, completed
from search.records import PreflightResult, RunParameters, StageName, TrialRecord
from search.spec import JobSpec

TEACHER = "teacher"
"""The key of `PreflightResult.seconds_per_step` for the teacher on one batch whose outputs are kept."""
UNAUGMENTED = "none"
MEASURED_STAGES = (StageName.SEARCH, StageName.TUNING)
"""Proof runs are not measured: what they are to do must not depend on which of them have ended."""


def cache_device_seconds(trial: TrialRecord, *, devices: float) -> float:
    """Of a trial's device-seconds, those that cached the teacher's outputs, which all trials share."""
    seconds = float((trial.result or {}).get("cache_seconds", 0.0))
    return min(trial.device_seconds, seconds * devices)


class RunKind(StrEnum):
    """Kinds of training runs whose steps cost differently; keys of `PreflightResult.seconds_per_step`."""

    STUDENT_ALONE = "student_alone"
    KD = "kd"
    PATHWAYS = "pathways"
    SEARCH = "search"


def devices_per_trial(spec: JobSpec) -> float:
    """Reserved GPUs of a trial, or reserved CPU cores where it has no GPU."""
    resources = spec.resources_per_trial
    return resources.gpus if resources.gpus > 0 else resources.cpus


def run_kind(parameters: Mapping[str, Any]) -> RunKind:
    """The kind of a run, from its RunParameters as JSON."""
    if parameters.get("learn"):
        return RunKind.SEARCH
    process = parameters["process"]
    if process["pathways"]:
        return RunKind.PATHWAYS
    return RunKind.KD if process["logit_losses"] else RunKind.STUDENT_ALONE


def wall_seconds(runs: Iterable[float], *, at_once: int) -> float:
    """Wall time of runs of these seconds, so many at once, the longest first."""
    free_at: list[float] = []
    for seconds in sorted(runs, reverse=True):
        begins = heapq.heappop(free_at) if len(free_at) >= at_once else 0.0
        heapq.heappush(free_at, begins + seconds)
    return max(free_at, default=0.0)


@dataclass(frozen=True)
class Rate:
    """Wall seconds of a run: once for all that is beside its steps (start, validation), and for each step."""

    once: float
    per_step: float


class Costs:
    """Predicted and spent wall seconds of trials.

    Runs cost what completed trials of the same kind took (their medians); before there is one, what preflight
    measured. A longer run starts no more often than a short one: only its steps grow in number. What caching
    the teacher's outputs takes is no part of a run, whichever run it was that needed them first.
    """

    def __init__(self, spec: JobSpec, preflight: PreflightResult, history: History) -> None:
        self.devices = devices_per_trial(spec)
        self._views = 1 if spec.training.augmentation == UNAUGMENTED else spec.training.views
        self._preflight = preflight
        self._history = history
        self._measured = self._measure(history)

    def predicted(self, kind: RunKind, *, splits: str, epochs: int, update_every_steps: int = 1) -> float:
        """Wall seconds of a run."""
        steps = epochs * self._preflight.steps_per_epoch[splits]
        rate = self._measured.get(kind) or Rate(
            self._preflight.start_seconds, self._seconds_per_step(kind, update_every_steps)
        )
        return rate.once + steps * rate.per_step

    def predicted_run(self, parameters: Mapping[str, Any]) -> float:
        """Wall seconds of a run with these RunParameters (as JSON)."""
        learn = parameters.get("learn") or {}
        return self.predicted(
            run_kind(parameters),
            splits=parameters["splits"],
            epochs=parameters["epochs"],
            update_every_steps=learn.get("update_every_steps", 1),
        )

    def caching(self, *, splits: str, epochs: int) -> float:
        """Wall seconds that it still takes to cache the teacher's outputs for runs of so many epochs.

        None once a run on these splits that reads them has completed: all views that it used are there.
        """
        stages = (StageName.PROOF,) if splits == "proof" else MEASURED_STAGES
        done = (trial for stage in stages for trial in completed(self._history.of(stage)))
        if any(run_kind(trial.parameters) is not RunKind.STUDENT_ALONE for trial in done):
            return 0.0
        batches = min(self._views, epochs) * self._preflight.steps_per_epoch[splits]
        return batches * self._preflight.seconds_per_step.get(TEACHER, 0.0)

    def spent(self, trial: TrialRecord) -> float:
        """Wall seconds that a trial took so far."""
        return trial.device_seconds / self.devices

    def own(self, trial: TrialRecord) -> float:
        """Wall seconds of a trial without those that cached the teacher's outputs for all."""
        return self.spent(trial) - cache_device_seconds(trial, devices=self.devices) / self.devices

    def own_or_predicted(self, trial: TrialRecord) -> float:
        """The same at its end: for an unfinished one at least what is predicted."""
        return self.own(trial) if trial.state.is_final else self.spent_or_predicted(trial)

    def spent_or_predicted(self, trial: TrialRecord) -> float:
        """Wall seconds of a trial at its end: spent, or for an unfinished one at least what is predicted."""
        if trial.state.is_final:
            return self.spent(trial)
        return max(self.predicted_run(trial.parameters), self.spent(trial))

    def remaining(self, trial: TrialRecord) -> float:
        """Wall seconds until an unfinished trial ends, by the epochs that its curve still lacks."""
        epochs = float(trial.parameters["epochs"])
        done = max((point.epoch for point in trial.curve), default=0.0)
        return self.predicted_run(trial.parameters) * max(0.0, 1.0 - done / epochs)

    def proof_seconds(self, replay: TrialRecord, run: RunParameters) -> float:
        """Wall seconds of a proof run of the process that a replay on the search splits has measured."""
        rate = self._rate(replay)
        if rate is None:
            return self.predicted_run(run.model_dump(mode="json"))
        return rate.once + rate.per_step * run.epochs * self._preflight.steps_per_epoch["proof"]

    def epochs_for(self, seconds: float, kind: RunKind, *, splits: str) -> int:
        """How many whole epochs of such a run fit into so many wall seconds."""
        one, two = (self.predicted(kind, splits=splits, epochs=epochs) for epochs in (1, 2))
        return max(0, math.floor((seconds - one) / (two - one) + 1e-9) + 1) if two > one else 0

    def _seconds_per_step(self, kind: RunKind, update_every_steps: int) -> float:
        """An update of the process costs extra, and only every so many steps."""
        measured = self._preflight.seconds_per_step
        if kind is not RunKind.SEARCH:
            return measured[kind]
        plain = measured[RunKind.PATHWAYS]
        return plain + max(0.0, measured[RunKind.SEARCH] - plain) / update_every_steps

    def _measure(self, history: History) -> dict[RunKind, Rate]:
        rates: dict[RunKind, list[Rate]] = {}
        for stage in MEASURED_STAGES:
            for trial in completed(history.of(stage)):
                rate = self._rate(trial)
                if rate is not None:
                    rates.setdefault(run_kind(trial.parameters), []).append(rate)
        return {
            kind: Rate(median(rate.once for rate in found), median(rate.per_step for rate in found))
            for kind, found in rates.items()
        }

    def _rate(self, trial: TrialRecord) -> Rate | None:
        """What a completed trial took; None where it was not measured."""
        result, spent = trial.result or {}, self.spent(trial)
        steps, seconds = int(result.get("steps", 0)), float(result.get("seconds", 0.0))
        if steps <= 0 or seconds <= 0 or spent <= 0:
            return None
        caching = float(result.get("cache_seconds", 0.0))
        return Rate(max(0.0, spent - seconds - caching), seconds / steps)
