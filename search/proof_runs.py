"""What proof has to run: the process of every arm, once search and tuning have ended. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from search.arms import ArmName, ProcessKind, held, plain_kd, proof_run, shuffled
from search.costs import Costs, RunKind
from search.dimensions import derived_seed
from search.history import History, best
from search.recipe import Process, constant
from search.records import Proposal, RunParameters, StageName, TrialKey, TrialRecord
from search.spec import JobSpec


@dataclass(frozen=True)
class Found:
    """What the search found. `replay` is the one that did better on validation."""

    trial: TrialRecord
    replay: TrialRecord
    kind: ProcessKind
    learned: Process

    @property
    def searched(self) -> Process:
        """The process of the searched arm."""
        return self.learned if self.kind is ProcessKind.SCHEDULE else held(self.learned)


def learned_process(trial: TrialRecord) -> Process:
    """The process that a completed search trial learned."""
    assert trial.result is not None
    return Process.model_validate(trial.result["process"])


def what_search_found(history: History) -> Found:
    """The best search trial, and its better replay; of equal ones the constant, which is simpler.

    Raises ValueError before the search and its replays have ended.
    """
    trial = best(history.of(StageName.SEARCH, ArmName.SEARCHED))
    constant_first = [
        *history.of(StageName.SEARCH, ProcessKind.CONSTANT),
        *history.of(StageName.SEARCH, ProcessKind.SCHEDULE),
    ]
    replay = best(constant_first)
    if trial is None or replay is None:
        raise ValueError("no search trial has completed yet, or no replay of it")
    return Found(trial, replay, ProcessKind(replay.key.arm), learned_process(trial))


def arms_to_run(spec: JobSpec, found: Found) -> list[ArmName]:
    """The arms that proof trains, in the order of a report.

    Where the searched arm is itself the constant process, the arm `constant` would repeat the same runs.
    """
    same = {ArmName.CONSTANT} if found.kind is ProcessKind.CONSTANT else set()
    return [arm for arm in ArmName if arm in spec.proof.arms and arm not in same]


def proof_key(arm: ArmName, seed: int) -> TrialKey:
    """The key of a proof run."""
    return TrialKey(StageName.PROOF, arm.value, seed, 0)


class ProofRuns:
    """The runs of proof; the same whichever of them have ended."""

    def __init__(self, spec: JobSpec, history: History) -> None:
        self.found = what_search_found(history)
        tuned = best(history.of(StageName.TUNING))
        if tuned is None:
            raise ValueError("no tuning trial has completed yet")
        self.tuned_process = Process.model_validate(tuned.parameters["process"])
        self._spec = spec
        self._costs = Costs(spec, history.preflight(), history)
        self._search_seconds = math.fsum(map(self._costs.spent, history.of(StageName.SEARCH)))

    def proposals(self) -> Iterator[Proposal]:
        """Seed by seed, so that the arms of a seed can be compared as early as possible."""
        for seed in self._spec.proof.seeds:
            for arm in arms_to_run(self._spec, self.found):
                yield Proposal(proof_key(arm, seed), self.parameters(arm, seed).model_dump(mode="json"))

    def parameters(self, arm: ArmName, seed: int) -> RunParameters:
        """What an arm trains with a seed."""
        epochs = self.longer_epochs() if arm is ArmName.LONGER_KD else self._spec.proof_epochs
        return proof_run(self._process(arm, seed), epochs=epochs)

    def longer_epochs(self) -> int:
        """Epochs of tuned KD for the searched arm's whole compute: the search and one training with it."""
        replayed = proof_run(self.found.searched, epochs=self._spec.proof_epochs)
        seconds = self._search_seconds + self._costs.proof_seconds(self.found.replay, replayed)
        return max(self._spec.proof_epochs, self._costs.epochs_for(seconds, RunKind.KD, splits="proof"))

    def _process(self, arm: ArmName, seed: int) -> Process:
        match arm:
            case ArmName.STUDENT_ALONE:
                return constant()
            case ArmName.PLAIN_KD:
                return plain_kd()
            case ArmName.TUNED_KD | ArmName.LONGER_KD:
                return self.tuned_process
            case ArmName.UNIFORM:
                return Process.model_validate(self.found.trial.parameters["process"])
            case ArmName.CONSTANT:
                return held(self.found.learned)
            case ArmName.SHUFFLED:
                return shuffled(self.found.learned, seed=derived_seed(self._spec.search.seed, seed))
            case ArmName.SEARCHED:
                return self.found.searched
