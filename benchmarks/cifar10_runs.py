"""The proof runs of one CIFAR-10 schedule: every arm, longer KD twice, and the curves over epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from benchmarks.pooled_job import PooledJob
from search.planning.arms import plain_kd, proof_run
from search.planning.history import History, accuracy, completed
from search.planning.process_shapes import held
from search.planning.proof_runs import ProofRuns
from search.recipe import Process, constant
from search.records import Proposal, StageName, TrialKey, TrialRecord


class Arm(StrEnum):
    """What is trained. `schedule` and `constant`: what was learned, as learned and with its end held, over
    the searched process's pathways. Longer KD is tuned KD; where tuning has chosen badly, plain KD for the
    replay's time is the harder one to beat."""

    STUDENT_ALONE = "student_alone"
    PLAIN_KD = "plain_kd"
    TUNED_KD = "tuned_kd"
    SEARCHED = "searched"
    SCHEDULE = "schedule"
    CONSTANT = "constant"
    LONGER_REPLAY = "longer_kd_replay"
    LONGER_PLAIN_REPLAY = "longer_plain_kd_replay"
    LONGER_TOTAL = "longer_kd_total"


Accuracies = dict[int, float]
"""Test accuracy in [0, 1] by seed."""


@dataclass(frozen=True)
class Seeds:
    """Which seeds train what: all arms that are compared, longer KD, and arms for orientation."""

    compared: list[int]
    longer: list[int]
    orientation: list[int]


class ProofOfSchedule:
    """Runs of one schedule, once its job's search and tuning have ended."""

    def __init__(self, job: PooledJob, seeds: Seeds) -> None:
        self.job, self.seeds = job, seeds
        self.epochs = job.spec.proof_epochs
        runs = ProofRuns(job.spec, History(job.records))
        self.found, self.tuned = runs.found, runs.tuned_process

    def process(self, arm: Arm) -> Process:
        """What an arm trains with."""
        match arm:
            case Arm.STUDENT_ALONE:
                return constant()
            case Arm.PLAIN_KD | Arm.LONGER_PLAIN_REPLAY:
                return plain_kd()
            case Arm.SEARCHED:
                return self.found.searched
            case Arm.SCHEDULE:
                return self.found.schedule
            case Arm.CONSTANT:
                return held(self.found.schedule)
            case _:
                return self.tuned

    def compare(self) -> None:
        """All arms that train for the same epochs, and those for orientation."""
        arms = [Arm.PLAIN_KD, Arm.TUNED_KD, Arm.SEARCHED, *self._own(Arm.SCHEDULE, Arm.CONSTANT)]
        wanted = [(arm, seed) for seed in self.seeds.compared for arm in arms]
        wanted += [(Arm.STUDENT_ALONE, seed) for seed in self.seeds.orientation]
        self.job.run(self._proposal(arm, seed, self.epochs) for arm, seed in wanted)

    def beyond(self, longer: Mapping[Arm, int], curves: Mapping[Arm, Sequence[int]]) -> None:
        """Each kind of longer KD for its epochs; and arms for other numbers of epochs,
        each run with its whole learning-rate schedule. In one batch, so that no process waits for another."""
        wanted = [
            self._proposal(arm, seed, count) for arm, count in longer.items() for seed in self.seeds.longer
        ]
        wanted += [
            self._proposal(arm, seed, count, name=_at(arm, count))
            for arm, counts in curves.items()
            for count in counts
            if count != self.epochs
            for seed in self.seeds.orientation
        ]
        self.job.run(wanted)

    def curve(self, arm: Arm, epochs: Iterable[int]) -> dict[int, Accuracies]:
        """What an arm reached in these numbers of epochs and in its own."""
        found = {count: self.accuracies(_at(arm, count)) for count in epochs if count != self.epochs}
        return dict(sorted({**found, self.epochs: self.accuracies(arm)}.items()))

    def accuracies(self, arm: str) -> Accuracies:
        """By seed. An arm that trains as the searched one does has its runs."""
        name = arm if arm not in (Arm.SCHEDULE, Arm.CONSTANT) or self._own(Arm(arm)) else Arm.SEARCHED
        return {record.key.seed: accuracy(record) for record in self._runs(name)}

    def search_seconds(self) -> float:
        """Device-seconds of the search, its replays on validation included."""
        return _seconds(self.job.records, StageName.SEARCH)

    def tuning_seconds(self) -> float:
        """Device-seconds of KD's tuning."""
        return _seconds(self.job.records, StageName.TUNING)

    def longer_epochs(self, replay_cost: float) -> dict[Arm, int]:
        """Epochs that the searched replay's own compute buys, and search and one replay's; rounded up."""
        # A longer run opens its data and is judged once all the same: only its steps grow in number.
        epoch = median(_step_seconds(record) for record in self._runs(Arm.TUNED_KD)) / self.epochs
        replay = self.epochs * replay_cost
        return {
            Arm.LONGER_REPLAY: max(self.epochs, math.ceil(replay)),
            Arm.LONGER_PLAIN_REPLAY: max(self.epochs, math.ceil(replay)),
            Arm.LONGER_TOTAL: max(self.epochs, math.ceil(replay + self.search_seconds() / epoch)),
        }

    def _own(self, *arms: Arm) -> list[Arm]:
        """Those of the arms whose process is not the searched one itself."""
        return [arm for arm in arms if self.process(arm) != self.found.searched]

    def _runs(self, arm: str) -> list[TrialRecord]:
        return completed(History(self.job.records).of(StageName.PROOF, arm))

    def _proposal(self, arm: Arm, seed: int, epochs: int, *, name: str | None = None) -> Proposal:
        parameters = proof_run(self.process(arm), epochs=epochs).model_dump(mode="json")
        return Proposal(TrialKey(StageName.PROOF, name or arm.value, seed, 0), parameters)


def _at(arm: Arm, epochs: int) -> str:
    return f"{arm.value}_{epochs}_epochs"


def _step_seconds(record: TrialRecord) -> float:
    assert record.result is not None
    return float(record.result["seconds"])


def _seconds(records: Iterable[TrialRecord], stage: StageName) -> float:
    return math.fsum(record.device_seconds for record in records if record.key.stage is stage)
