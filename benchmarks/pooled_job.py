"""A job's plan carried out in the pool, its records kept in the ledger: a killed benchmark continues."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from benchmarks.ledger import Ledger
from benchmarks.pool import Place, Pool
from search.plan import next_trials
from search.problems import SearchProblem
from search.records import (
    Fail,
    Proposal,
    StageName,
    Start,
    TrialKey,
    TrialRecord,
    TrialState,
)
from search.spec import JobSpec

Say = Callable[[str], None]
_ORDER = list(StageName)


@dataclass
class PooledJob:
    """One part of a benchmark: a job up to its proof, then whatever runs are asked for."""

    part: str
    spec: JobSpec
    place: Place
    pool: Pool
    ledger: Ledger
    say: Say
    started: float = field(default_factory=time.monotonic)

    @property
    def records(self) -> list[TrialRecord]:
        """The trials that have ended."""
        return self.ledger.records(self.part)

    def advance(self, *, until: StageName) -> None:
        """What the plan asks for, up to the first trial of stage `until`. Raises SearchProblem where the plan
        fails."""
        running: dict[TrialKey, TrialRecord] = {}
        while True:
            # Runs of later stages may be the benchmark's own, which the plan does not know.
            known = [
                record for record in self.records if _ORDER.index(record.key.stage) < _ORDER.index(until)
            ]
            match next_trials(self.spec, [*known, *running.values()]):
                case Start(proposals) if proposals[0].key.stage is not until:
                    for proposal in proposals:
                        running[proposal.key] = _proposed(proposal)
                        self._submit(proposal)
                case Fail(code, message):
                    raise SearchProblem(message, code=code)
                case _ if not running:
                    return
                case _:
                    pass
            for record in self.pool.completed():
                del running[record.key]
                self._keep(record)

    def run(self, proposals: Iterable[Proposal]) -> list[TrialRecord]:
        """These trials, the longest first; those that the ledger has are not run again. Raises SearchProblem
        for one that fails, and keeps no record of it: figures over the other seeds would favour what
        diverges."""
        wanted = list(proposals)
        have = {record.key: record for record in self.records}
        missing = [proposal for proposal in wanted if proposal.key not in have]
        for proposal in sorted(missing, key=lambda one: -int(one.parameters["epochs"])):
            self._submit(proposal)
        for record in self.pool.drain():
            if record.state is not TrialState.COMPLETED:
                raise SearchProblem(f"{record.key} failed: {record.error}", code="trial_failed")
            self._keep(record)
        have = {record.key: record for record in self.records}
        return [have[proposal.key] for proposal in wanted]

    def _submit(self, proposal: Proposal) -> None:
        needed = [record for record in self.records if record.key.stage is StageName.TEACHER]
        self.pool.submit(self.spec, self.place, proposal, needed=needed)

    def _keep(self, record: TrialRecord) -> None:
        self.ledger.add(self.part, [record])
        self.say(f"{self.part:>6} {record.key}: {_in_words(record)}")


def _proposed(proposal: Proposal) -> TrialRecord:
    return TrialRecord(proposal.key, TrialState.PROPOSED, proposal.parameters)


def _in_words(record: TrialRecord) -> str:
    if record.result is None:
        return f"{record.state}: {record.error}"
    accuracy = record.result.get("accuracy")
    figure = f"{100 * accuracy:.2f}%" if accuracy is not None else "done"
    return f"{figure}, {record.device_seconds:.0f} s"
