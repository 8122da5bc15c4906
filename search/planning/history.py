"""The recorded trials of a job, in an order of its own, with the questions that the plan asks.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

from search.records import PreflightResult, Proposal, StageName, TrialKey, TrialRecord, TrialState


class History:
    """Trials sorted by key, so that the order in which they were read cannot matter.

    Cancelled trials count as not having run: a job that repeats a cancelled one proposes their keys anew.
    """

    def __init__(self, trials: Iterable[TrialRecord]) -> None:
        self._by_key = {
            trial.key: trial
            for trial in sorted(trials, key=lambda trial: trial.key)
            if trial.state is not TrialState.CANCELLED
        }

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self._by_key.values())

    def get(self, key: TrialKey) -> TrialRecord | None:
        """The trial of that key, if there is one."""
        return self._by_key.get(key)

    def of(self, stage: StageName, arm: str | None = None) -> list[TrialRecord]:
        """The trials of a stage, of one arm or of all, by key."""
        return [trial for trial in self if trial.key.stage is stage and arm in (None, trial.key.arm)]

    def unfinished(self) -> list[TrialRecord]:
        """The trials that are proposed or running."""
        return [trial for trial in self if not trial.state.is_final]

    def with_proposed(self, proposal: Proposal) -> History:
        """This history with one more trial, proposed."""
        return History([*self, TrialRecord(proposal.key, TrialState.PROPOSED, proposal.parameters)])

    def preflight(self) -> PreflightResult:
        """What preflight found. It must have completed."""
        (trial,) = completed(self.of(StageName.PREFLIGHT))
        return PreflightResult.model_validate(trial.result)


def completed(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Those that ended well, and so have a result."""
    return [trial for trial in trials if trial.state is TrialState.COMPLETED and trial.result is not None]


def failed(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Those that failed."""
    return [trial for trial in trials if trial.state is TrialState.FAILED]


def accuracy(trial: TrialRecord) -> float:
    """The final accuracy of a completed trial: on validation, in proof on test."""
    assert trial.result is not None
    return float(trial.result["accuracy"])


def best(trials: Iterable[TrialRecord]) -> TrialRecord | None:
    """The completed trial of the highest accuracy; of equal ones the first by key."""
    return max(completed(trials), key=accuracy, default=None)


def free_index(trials: Iterable[TrialRecord]) -> int:
    """The smallest index that none of the trials has."""
    taken = {trial.key.index for trial in trials}
    return next(index for index in count() if index not in taken)
