"""What a driver knows of its job: read from SQL when it starts, kept up to date with what it commits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from search.planning.findings import what_search_found
from search.planning.history import History
from search.planning.proof_runs import arms_to_run
from search.records import ExportParameters, StageName, TrialRecord, TrialState
from workers.assignment import StoredFile
from workers.recording import RecordedJob, RecordedTrial

PROVING = (StageName.PROOF, StageName.EXPORT)


@dataclass
class KnownTrial:
    """A trial; `step` is the last that was reported, `deaths` count the processes that died of it."""

    id: str
    record: TrialRecord
    files: tuple[StoredFile, ...] = ()
    step: int = 0
    deaths: int = 0


class JobMemory:
    """All trials of a job, in the order in which they were proposed."""

    def __init__(self, job: RecordedJob) -> None:
        self._spec = job.spec
        self._trials: dict[str, KnownTrial] = {}
        for trial in job.trials:
            self.add(trial)

    def __getitem__(self, trial_id: str) -> KnownTrial:
        return self._trials[trial_id]

    def __iter__(self) -> Iterator[KnownTrial]:
        return iter(self._trials.values())

    def add(self, trial: RecordedTrial) -> KnownTrial:
        """Take in a trial that is recorded."""
        self._trials[trial.id] = KnownTrial(trial.id, trial.record, trial.files)
        return self._trials[trial.id]

    def records(self) -> list[TrialRecord]:
        """What the plan may know."""
        return [trial.record for trial in self]

    def unfinished(self) -> list[KnownTrial]:
        """Trials that are to be started, or to be continued."""
        return [trial for trial in self if not trial.record.state.is_final]

    def teacher_file(self) -> StoredFile | None:
        """The teacher's weights, once its trial has completed."""
        return self._file("teacher.safetensors", stage=StageName.TEACHER)

    def student_file(self, trial: KnownTrial) -> StoredFile | None:
        """For an export: the student of the proof run that won."""
        if trial.record.key.stage is not StageName.EXPORT:
            return None
        chosen = ExportParameters.model_validate(trial.record.parameters)
        return self._file("student.safetensors", stage=StageName.PROOF, arm=chosen.arm, seed=chosen.seed)

    def recipe(self) -> dict[str, Any]:
        """The document that the export trial wrote."""
        (export,) = [trial for trial in self if trial.record.key.stage is StageName.EXPORT]
        assert export.record.result is not None, "the plan does not finish before the export"
        recipe: dict[str, Any] = export.record.result["recipe"]
        return recipe

    def progress(self, stage: StageName | None) -> dict[str, Any]:
        """The job's progress, as users see it."""
        running = [trial for trial in self if trial.record.state is TrialState.RUNNING]
        done = [trial for trial in self if trial.record.state.is_final]
        done_here = sum(trial.record.key.stage is stage for trial in done)
        at_work = ", ".join(f"{_name(trial)} at step {trial.step}" for trial in running)
        return {
            "stage": stage,
            "trials_done": len(done),
            "trials_total": self._total(stage),
            "running": len(running),
            "message": f"{stage}: {done_here} done" + (f"; {at_work}" if at_work else ""),
        }

    def _total(self, stage: StageName | None) -> int | None:
        """How many trials the job will have had: known once proof begins."""
        if stage not in PROVING:
            return None
        before = sum(trial.record.key.stage not in PROVING for trial in self)
        arms = arms_to_run(self._spec, what_search_found(self._spec, History(self.records())))
        return before + len(arms) * len(self._spec.proof.seeds) + 1

    def _file(
        self, name: str, *, stage: StageName, arm: str | None = None, seed: int | None = None
    ) -> StoredFile | None:
        for trial in self:
            key = trial.record.key
            if key.stage is stage and arm in (None, key.arm) and seed in (None, key.seed):
                for file in trial.files:
                    if file.name == name:
                        return file
        return None


def _name(trial: KnownTrial) -> str:
    """As short as it can be inside one stage: trials of search and tuning differ by index, others by seed."""
    key = trial.record.key
    if key.stage in (StageName.SEARCH, StageName.TUNING):
        return f"{key.arm} {key.index}"
    return f"{key.arm} (seed {key.seed})" if key.stage is StageName.PROOF else key.arm
