"""One moment of a job, which is all that a stage of the plan may look at, and the ways to answer it.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from search.planning.budgeting import Budgeting
from search.planning.given import GivenProcess
from search.planning.history import History, completed, failed
from search.records import (
    Action,
    Fail,
    Proposal,
    RunParameters,
    Start,
    TrialError,
    TrialKey,
    TrialRecord,
    Wait,
)
from search.spec import JobSpec


@dataclass(frozen=True)
class Moment:
    """The spec, the recorded trials, how long the job has been running, and a process if one was given: it is
    then proved as it is, without a search."""

    spec: JobSpec
    history: History
    dry_run: bool = False
    elapsed_seconds: float = 0.0
    given: GivenProcess | None = None

    def room(self) -> int:
        """How many trials may be started."""
        return max(0, self.spec.search.concurrent_trials - len(self.history.unfinished()))

    def with_proposed(self, proposal: Proposal) -> Moment:
        """The moment after a proposal was made."""
        return replace(self, history=self.history.with_proposed(proposal))

    def proposal(self, key: TrialKey, run: RunParameters) -> Proposal:
        """A training run as a proposal: its parameters as JSON. It is to see the data that preflight saw."""
        data = self.history.preflight().data_sha256
        return Proposal(key, run.model_copy(update={"data_sha256": data}).model_dump(mode="json"))

    def budgeting(self) -> Budgeting:
        """The budget at this moment. Preflight must have completed."""
        preflight = self.history.preflight()
        return Budgeting(
            self.spec,
            self.history,
            preflight,
            elapsed_seconds=self.elapsed_seconds,
            given=self.given,
        )


def only_trial(moment: Moment, key: TrialKey, parameters: Callable[[], dict[str, Any]]) -> Action | None:
    """The answer of a stage of one trial, without which the job cannot go on; None once it has completed."""
    trial = moment.history.get(key)
    if trial is None:
        return Start((Proposal(key, parameters()),))
    if not trial.state.is_final:
        return Wait()
    if completed([trial]):
        return None
    error = error_of(trial)
    return Fail(error.code, error.message)


def fill(moment: Moment, propose: Callable[[Moment], Proposal | None]) -> list[Proposal]:
    """Proposals for all the room there is, each made with those before it in view."""
    proposals: list[Proposal] = []
    while moment.room() > 0:
        candidate = propose(moment)
        if candidate is None:
            break
        proposals.append(candidate)
        moment = moment.with_proposed(candidate)
    return proposals


def start_or_wait(proposals: Sequence[Proposal], awaited: Sequence[TrialRecord]) -> Action | None:
    """Start what there is, else wait for what is unfinished; None when neither."""
    if proposals:
        return Start(tuple(proposals))
    return Wait() if any(not trial.state.is_final for trial in awaited) else None


def without_success(trials: Sequence[TrialRecord], what: str) -> Fail | None:
    """Why the job cannot go on when not one of these final trials has completed; None when one has."""
    if completed(trials):
        return None
    failures = failed(trials)
    first = error_of(failures[0]) if failures else TrialError("internal", "none was carried to its end")
    return Fail(
        first.code, f"{what}: none of {len(trials)} trials completed; the first error: {first.message}"
    )


def error_of(trial: TrialRecord) -> TrialError:
    """Why a final trial without a result ended so."""
    unsaid = TrialError("internal", f"trial {trial.key} ended as {trial.state} and left no reason")
    return trial.error or unsaid


def is_needed(trials: Sequence[TrialRecord]) -> bool:
    """Whether one more trial has to be tried for there to be any that completes."""
    return not completed(trials) and all(trial.state.is_final for trial in trials)
