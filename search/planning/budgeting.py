"""The budget: what is spent, what proof and tuning still need, and whether one more trial fits.

Imports no torch.

Proof's share is reserved from the start, and so is tuning's, which is as large as the search. Longer KD
trains every seed for the search's whole compute, so that each second of search reserves a second more per
seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.planning.arms import ArmName
from search.planning.candidates import most_candidates
from search.planning.costs import Costs, RunKind, wall_seconds
from search.planning.given import GivenProcess
from search.planning.history import History, completed
from search.records import Fail, PreflightResult, RunParameters, StageName, TrialRecord
from search.spec import JobSpec

KIND_OF_ARM = {
    ArmName.STUDENT_ALONE: RunKind.STUDENT_ALONE,
    ArmName.PLAIN_KD: RunKind.KD,
    ArmName.TUNED_KD: RunKind.KD,
    ArmName.UNIFORM: RunKind.PATHWAYS,
    ArmName.CONSTANT: RunKind.PATHWAYS,
    ArmName.SHUFFLED: RunKind.PATHWAYS,
    ArmName.SEARCHED: RunKind.PATHWAYS,
}


class Budgeting:
    """Answers for one moment of a job.

    All figures are predictions; a run under way is never cut off by them.
    """

    def __init__(
        self,
        spec: JobSpec,
        history: History,
        preflight: PreflightResult,
        *,
        elapsed_seconds: float,
        given: GivenProcess | None = None,
    ) -> None:
        self.spec = spec
        self.history = history
        self.costs = Costs(spec, preflight, history)
        self._elapsed_seconds = elapsed_seconds
        self._at_once = spec.search.concurrent_trials
        self._replay = self.costs.predicted(
            RunKind.PATHWAYS, splits="search", epochs=spec.budget.epochs_per_trial
        )
        self._replays = spec.search.replay_seeds * (1 if given else most_candidates(spec))
        self._given = given
        self._found_elsewhere = given.search_device_seconds / self.costs.devices if given else 0.0
        # Whichever run needs them first computes the teacher's outputs, once for all.
        self._caching = self.costs.caching(splits="search", epochs=spec.budget.epochs_per_trial)

    def refusal(self, first_trial: RunParameters) -> Fail | None:
        """Why the budget cannot hold the smallest job: one search trial, as much tuning, and the proof."""
        first = self.costs.predicted_run(first_trial.model_dump(mode="json"))
        trials = [] if self._given else [first] * self.spec.search.rounds
        search = math.fsum(trials) + self._replays * self._replay + self._caching
        needs = {
            "device_seconds": self._total_seconds(search) * self.costs.devices,
            "wall_seconds": self._elapsed_seconds + self._wall(trials[:1], trials[1:], search),
        }
        proof = math.fsum(self._proof_runs(search))
        for name, needed in needs.items():
            limit = getattr(self.spec.budget, name)
            if limit is not None and needed > limit:
                return Fail(
                    "budget_too_small", self._sentence(name, needed, limit, search=search, proof=proof)
                )
        return None

    def has_room_for_search(self, candidate: RunParameters, *, rounds_ahead: int = 0) -> bool:
        """Whether one more search trial, and so many warm-started ones after it, leave enough for their share
        of tuning, the replays and the proof."""
        budget = self.spec.budget
        if budget.device_seconds is None and budget.wall_seconds is None:
            return True
        trial = self.costs.predicted_run(candidate.model_dump(mode="json"))
        records = self.history.of(StageName.SEARCH)
        later = [trial] * rounds_ahead
        replays = self._replays * self._replay
        search = self._search_seconds(records) + trial + math.fsum(later) + replays + self._caching
        running = [self.costs.remaining(record) for record in records if not record.state.is_final]
        return self._within(self._total_seconds(search), self._wall([*running, trial], later, search))

    def has_room_for_tuning(self, candidate: RunParameters) -> bool:
        """Whether one more tuning trial still leaves enough for the proof."""
        trial = self.costs.predicted_run(candidate.model_dump(mode="json"))
        proof = self._proof_runs(self._search_seconds(self.history.of(StageName.SEARCH)))
        running = [self.costs.remaining(record) for record in self.history.unfinished()]
        return self._within(
            self._before_proof() + trial + math.fsum(proof),
            wall_seconds([*running, trial], at_once=self._at_once)
            + wall_seconds(proof, at_once=self._at_once),
        )

    def tuning_is_even(self, *, reserved_runs: int = 0) -> bool:
        """Whether tuning, with what its running trials and so many more will take, has reached the search's
        compute.

        The search of a given process took place elsewhere. Where nobody says what it took, KD is tuned by as
        many trials as a search may have.
        """
        trials, searched = (self.history.of(stage) for stage in (StageName.TUNING, StageName.SEARCH))
        if self._given and not self._found_elsewhere and len(trials) < self.spec.budget.trials:
            return False
        search = math.fsum(map(self.costs.own_or_predicted, searched)) + self._found_elsewhere
        reserved = reserved_runs * self.costs.predicted(
            RunKind.KD, splits="search", epochs=self.spec.budget.epochs_per_trial
        )
        return math.fsum(self._tuned_seconds(trial) for trial in trials) + reserved >= search

    def _tuned_seconds(self, trial: TrialRecord) -> float:
        """A completed trial that has no measured cost counts as predicted: the random search must end."""
        spent = self.costs.own_or_predicted(trial)
        if spent == 0 and completed([trial]):
            return self.costs.predicted_run(trial.parameters)
        return spent

    def _search_seconds(self, records: Sequence[TrialRecord]) -> float:
        return math.fsum(self.costs.spent_or_predicted(record) for record in records)

    def _before_proof(self) -> float:
        """Seconds of everything that was started before the proof, at its end."""
        stages = (StageName.SEARCH, StageName.TUNING)
        return math.fsum(
            self.costs.spent_or_predicted(record) if record.key.stage in stages else self.costs.spent(record)
            for record in self.history
        )

    def _total_seconds(self, search: float) -> float:
        """Trial seconds of the whole job if its search takes so many: tuning has as many, and those that
        finding a given process took elsewhere."""
        overhead = math.fsum(
            self.costs.spent(record)
            for record in self.history
            if record.key.stage in (StageName.TEACHER, StageName.PREFLIGHT)
        )
        return overhead + 2 * search + self._found_elsewhere + math.fsum(self._proof_runs(search))

    def _wall(self, trials: Sequence[float], rounds: Sequence[float], search: float) -> float:
        """Wall seconds from now to the end of proof: the teacher's outputs, these trials, further rounds one
        after the other, the replays (the last candidate is known after the others), tuning, proof."""
        last = min(self._replays, self.spec.search.replay_seeds)
        return math.fsum(
            (
                self._caching,
                wall_seconds(trials, at_once=self._at_once),
                math.fsum(rounds),
                wall_seconds([self._replay] * (self._replays - last), at_once=self._at_once),
                wall_seconds([self._replay] * last, at_once=self._at_once),
                (search + self._found_elsewhere) / self._at_once,
                wall_seconds(self._proof_runs(search), at_once=self._at_once),
            )
        )

    def _proof_runs(self, search: float) -> list[float]:
        """Seconds of every run of proof, if the search takes so many in all."""
        epochs = self.spec.proof_epochs
        replay = self.costs.predicted(RunKind.PATHWAYS, splits="proof", epochs=epochs)
        per_seed = [
            search + self._found_elsewhere + replay
            if arm is ArmName.LONGER_KD
            else self.costs.predicted(KIND_OF_ARM[arm], splits="proof", epochs=epochs)
            for arm in map(ArmName, self.spec.proof.arms)
        ]
        is_longer = ArmName.LONGER_KD in map(ArmName, self.spec.proof.arms)
        caching = self.costs.caching(
            splits="proof", epochs=max(epochs, self.spec.training.views) if is_longer else epochs
        )
        return per_seed * len(self.spec.proof.seeds) + ([caching] if caching else [])

    def _within(self, trial_seconds: float, remaining_wall_seconds: float) -> bool:
        budget, ends_at = self.spec.budget, self._elapsed_seconds + remaining_wall_seconds
        has_devices = (
            budget.device_seconds is None or trial_seconds * self.costs.devices <= budget.device_seconds
        )
        return has_devices and (budget.wall_seconds is None or ends_at <= budget.wall_seconds)

    def _sentence(self, name: str, needed: float, limit: float, *, search: float, proof: float) -> str:
        arms, seeds, devices = self.spec.proof.arms, self.spec.proof.seeds, self.costs.devices
        longer = "; longer KD takes the search's compute for every seed" if "longer_kd" in arms else ""
        return (
            f"budget.{name} is {limit:g}, but the smallest job needs about {needed:.0f}, teacher and "
            "preflight included. In device-seconds: one search trial with its replays "
            f"{search * devices:.0f}, {self._tuning_in_words()} to tune KD, and the proof of {len(arms)} "
            f"arms x {len(seeds)} seeds {proof * devices:.0f}{longer}. Raise budget.{name} to at least "
            f"{math.ceil(needed)}, or lower budget.epochs_per_trial, proof.epochs, proof.seeds or proof.arms."
        )

    def _tuning_in_words(self) -> str:
        if not self._found_elsewhere:
            return "as much again"
        elsewhere = self._found_elsewhere * self.costs.devices
        return f"as much again and the {elsewhere:.0f} in which the process was found"
