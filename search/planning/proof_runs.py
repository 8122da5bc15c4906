"""What proof has to run: the process of every arm, once search and tuning have ended. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

from search.dimensions import derived_seed
from search.planning.arms import ArmName, plain_kd, proof_run
from search.planning.costs import Costs, RunKind
from search.planning.findings import Found, what_search_found
from search.planning.given import found_elsewhere_seconds
from search.planning.history import History
from search.planning.process_shapes import held, shuffled
from search.planning.tuning import tuned_process
from search.recipe import Process, constant
from search.records import Proposal, RunParameters, StageName, TrialKey
from search.spec import JobSpec

ABLATIONS_IN_TIME = (ArmName.CONSTANT, ArmName.SHUFFLED)


def proof_key(arm: ArmName, seed: int) -> TrialKey:
    """The key of a proof run."""
    return TrialKey(StageName.PROOF, arm.value, seed, 0)


def arms_to_run(spec: JobSpec, found: Found) -> list[ArmName]:
    """The arms that proof trains, in the order of a report.

    An ablation in time that leaves the searched arm's process as it is would repeat the same runs.
    """
    same = {arm for arm in ABLATIONS_IN_TIME if ablated(arm, spec, found, seed=0) == found.searched}
    return [arm for arm in ArmName if arm in spec.proof.arms and arm not in same]


def ablated(arm: ArmName, spec: JobSpec, found: Found, *, seed: int) -> Process:
    """What was learned, over the searched arm's pathways, without its order in time (`shuffled`) or without
    any change in time (`constant`)."""
    if arm is ArmName.CONSTANT:
        return held(found.schedule)
    return shuffled(found.schedule, seed=derived_seed(spec.search.seed, seed))


class ProofRuns:
    """The runs of proof; the same whichever of them have ended."""

    def __init__(self, spec: JobSpec, history: History) -> None:
        self.found = what_search_found(spec, history)
        self.tuned_process = tuned_process(history)
        self._spec = spec
        self._data_sha256 = history.preflight().data_sha256
        self._costs = Costs(spec, history.preflight(), history)
        self._search_seconds = math.fsum(map(self._costs.own, history.of(StageName.SEARCH)))
        self._search_seconds += found_elsewhere_seconds(history) / self._costs.devices

    def proposals(self) -> Iterator[Proposal]:
        """Seed by seed, so that the arms of a seed can be compared as early as possible."""
        for seed in self._spec.proof.seeds:
            for arm in arms_to_run(self._spec, self.found):
                yield Proposal(proof_key(arm, seed), self.parameters(arm, seed).model_dump(mode="json"))

    def parameters(self, arm: ArmName, seed: int) -> RunParameters:
        """What an arm trains with a seed."""
        epochs = self.longer_epochs() if arm is ArmName.LONGER_KD else self._spec.proof_epochs
        run = proof_run(self._process(arm, seed), epochs=epochs)
        return run.model_copy(update={"data_sha256": self._data_sha256})

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
                return plain_kd(is_labelled=self._spec.data.is_labelled)
            case ArmName.TUNED_KD | ArmName.LONGER_KD:
                return self.tuned_process
            case ArmName.UNIFORM:
                return self.found.uniform
            case ArmName.CONSTANT | ArmName.SHUFFLED:
                return ablated(arm, self._spec, self.found, seed=seed)
            case ArmName.SEARCHED:
                return self.found.searched
