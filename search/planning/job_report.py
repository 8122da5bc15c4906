"""The report of a job: every arm with its runs and costs, paired differences, and the verdict.

Imports no torch.

A function of the recorded trials alone, JSON throughout, every number finite.
"""

from __future__ import annotations

import math
from typing import Any

from search.label_free import judged_by
from search.planning.arms import ArmName
from search.planning.costs import cache_device_seconds, devices_per_trial
from search.planning.figures_without_labels import figures_without_labels
from search.planning.findings import learning_trials, replay_trials, replays_json
from search.planning.given import found_elsewhere_seconds
from search.planning.history import History, accuracy, completed, failed
from search.planning.payback import Choice, longer_sentence
from search.planning.proof_runs import ABLATIONS_IN_TIME, ProofRuns, arms_to_run, proof_key
from search.planning.report_notes import KIND_IN_WORDS, notes
from search.planning.verdict import (
    Difference,
    Shortfall,
    Verdict,
    judge,
    judge_without_labels,
    mean_and_deviation,
    paired_difference,
)
from search.records import StageName, TrialRecord, TrialState
from search.spec import JobSpec

LABELS = {
    ArmName.STUDENT_ALONE: "Student alone",
    ArmName.PLAIN_KD: "Plain KD",
    ArmName.TUNED_KD: "Tuned KD",
    ArmName.LONGER_KD: "Longer KD",
    ArmName.UNIFORM: "Uniform weights",
    ArmName.CONSTANT: "Final weights held",
    ArmName.SHUFFLED: "Time-shuffled process",
    ArmName.SEARCHED: "Searched process",
}
FROM_TUNING = {ArmName.TUNED_KD, ArmName.LONGER_KD}
FROM_SEARCH = {ArmName.UNIFORM, ArmName.CONSTANT, ArmName.SHUFFLED, ArmName.SEARCHED}
COMPARED = (
    (ArmName.SEARCHED, ArmName.TUNED_KD),
    (ArmName.SEARCHED, ArmName.PLAIN_KD),
    (ArmName.SEARCHED, ArmName.STUDENT_ALONE),
    (ArmName.TUNED_KD, ArmName.STUDENT_ALONE),
    (ArmName.SEARCHED, ArmName.LONGER_KD),
    (ArmName.SEARCHED, ArmName.UNIFORM),
    (ArmName.SEARCHED, ArmName.CONSTANT),
    (ArmName.SEARCHED, ArmName.SHUFFLED),
)


class JobReport:
    """The report of a job whose proof runs are all final."""

    def __init__(self, spec: JobSpec, history: History) -> None:
        self._spec = spec
        self._history = history
        self._devices = devices_per_trial(spec)
        self._proof = ProofRuns(spec, history)
        self._arms = arms_to_run(spec, self._proof.found)
        self._differences = {
            (arm, baseline): self._compared(arm, baseline)
            for arm, baseline in COMPARED
            if self._is_sound(arm) and self._is_sound(baseline)
        }
        self._shortfall = self._tuning_shortfall()
        self.verdict: Verdict = self._judged()

    def _judged(self) -> Verdict:
        over_tuned = self._difference(ArmName.SEARCHED, ArmName.TUNED_KD)
        if not self._spec.data.is_labelled:
            figure = judged_by(self._spec).in_words
            return judge_without_labels(over_tuned, figure=figure, shortfall=self._shortfall)
        return judge(
            searched_over_tuned=over_tuned,
            searched_over_alone=self._difference(ArmName.SEARCHED, ArmName.STUDENT_ALONE),
            tuned_over_alone=self._difference(ArmName.TUNED_KD, ArmName.STUDENT_ALONE),
            shortfall=self._shortfall,
        )

    def as_json(self) -> dict[str, Any]:
        """The whole report."""
        found = self._proof.found
        is_searched = self.verdict.arm.proof_arm is ArmName.SEARCHED
        (teacher,) = completed(self._history.of(StageName.TEACHER))
        return {
            "verdict": {
                "arm": self.verdict.arm.value,
                "proof_arm": self.verdict.arm.proof_arm.value,
                "process_kind": found.kind.value if is_searched else None,
                "sentence": self.verdict.sentence,
                "longer_sentence": self._longer_sentence(),
            },
            "arms": [self._arm(arm) for arm in ArmName if arm in self._spec.proof.arms],
            "differences": [_difference_json(difference) for difference in self._differences.values()],
            "device_seconds": self._device_seconds(),
            "teacher": {"accuracy": (teacher.result or {})["accuracy"]},
            "without_labels": self._without_labels(),
            "stopped_early": sum(trial.state is TrialState.STOPPED_EARLY for trial in self._history),
            "trials": self._counts(),
            "process": found.searched.model_dump(mode="json"),
            "process_kind": found.kind.value,
            "replays": replays_json(found),
            "test_images": self._test_images(),
            "epochs": self._spec.proof_epochs,
            "notes": notes(self._spec, self._history, self._proof.found, self._arms, self._shortfall),
        }

    def _without_labels(self) -> dict[str, Any] | None:
        if self._spec.data.is_labelled:
            return None
        runs = {LABELS[arm]: self._runs(arm) for arm in ArmName if arm in self._spec.proof.arms}
        return figures_without_labels(self._spec, runs, self._history.preflight().cards)

    def _runs(self, arm: ArmName) -> list[TrialRecord]:
        """The arm's completed runs; the searched arm's for an ablation that leaves its process as it is."""
        run_as = arm if arm in self._arms else ArmName.SEARCHED
        keys = [proof_key(run_as, seed) for seed in self._spec.proof.seeds]
        return completed(trial for key in keys if (trial := self._history.get(key)) is not None)

    def _accuracies(self, arm: ArmName) -> dict[int, float]:
        return {run.key.seed: accuracy(run) for run in self._runs(arm)}

    def _is_sound(self, arm: ArmName) -> bool:
        """Whether the arm ran with every seed."""
        return arm in self._arms and len(self._runs(arm)) == len(self._spec.proof.seeds)

    def _compared(self, arm: ArmName, baseline: ArmName) -> Difference:
        return paired_difference(
            arm,
            baseline,
            runs=self._accuracies(arm),
            against=self._accuracies(baseline),
            test_images=self._test_images(),
        )

    def _difference(self, arm: ArmName, baseline: ArmName) -> Difference | None:
        return self._differences.get((arm, baseline))

    def _arm(self, arm: ArmName) -> dict[str, Any]:
        runs = self._runs(arm)
        values = [accuracy(run) for run in runs]
        mean, deviation = mean_and_deviation(values) if self._is_complete(runs) else (None, None)
        return {
            "arm": arm.value,
            "label": LABELS[arm],
            "detail": self._detail(arm),
            "epochs": self._epochs(arm),
            "runs": [
                {"seed": run.key.seed, "accuracy": accuracy(run), "device_seconds": self._own_cost(run)}
                for run in runs
            ],
            "mean": mean,
            "standard_deviation": deviation,
            "failed": self._failure(arm),
            "served_parameters": self._served(arm),
            "training_device_seconds": self._mean_cost(runs),
            "search_device_seconds": self._finding_cost(arm),
        }

    def _is_complete(self, runs: list[TrialRecord]) -> bool:
        return len(runs) == len(self._spec.proof.seeds)

    def _detail(self, arm: ArmName) -> str | None:
        parts = [self._found_in_words(arm), self._served_in_words(arm)]
        return ", ".join(filter(None, parts)) or None

    def _served_in_words(self, arm: ArmName) -> str | None:
        """What is served beside the student's own parameters, where anything is."""
        own, served = self._history.preflight().student_parameters, self._served(arm)
        if served is None or served == own:
            return None
        return f"served with {served:,} parameters instead of {own:,}"

    def _served(self, arm: ArmName) -> int | None:
        known = ((run.result or {}).get("served_parameters") for run in self._runs(arm))
        return next((int(count) for count in known if count is not None), None)

    def _found_in_words(self, arm: ArmName) -> str | None:
        if arm is ArmName.SEARCHED:
            return self._searched_in_words()
        if arm in ABLATIONS_IN_TIME and arm not in self._arms:
            return "the same runs as the searched process"
        if arm in FROM_TUNING:
            point = self._proof.tuned_process.points[0]
            weight = f", weight {point.logit_weights[0]:.3g}" if self._spec.data.is_labelled else ""
            return f"T = {point.teacher_temperatures[0]:.3g}{weight}"
        return None

    def _searched_in_words(self) -> str:
        found = self._proof.found
        kept, searched = len(found.searched.pathways), len(found.learned.pathways)
        pathways = f", {kept} of {searched} pathways" if kept < searched else ""
        return f"{KIND_IN_WORDS[found.kind]}{pathways}"

    def _epochs(self, arm: ArmName) -> int:
        return self._proof.longer_epochs() if arm is ArmName.LONGER_KD else self._spec.proof_epochs

    def _failure(self, arm: ArmName) -> str | None:
        """Why the arm counts as failed: its first failed run's message."""
        runs = failed(self._history.of(StageName.PROOF, arm if arm in self._arms else ArmName.SEARCHED))
        if not runs:
            return None
        error = runs[0].error
        return f"seed {runs[0].key.seed}: {error.message if error else 'failed without a message'}"

    def _finding_cost(self, arm: ArmName) -> float:
        """Device-seconds that finding the arm's process took."""
        if arm in FROM_SEARCH:
            return self._search_cost()
        return self._own_costs(StageName.TUNING) if arm in FROM_TUNING else 0.0

    def _tuning_shortfall(self) -> Shortfall | None:
        """Where tuning had less compute than the search, by more than one run."""
        tuning, search = self._own_costs(StageName.TUNING), self._search_cost()
        runs = self._history.of(StageName.TUNING)
        longest = max((trial.device_seconds for trial in runs), default=0.0)
        return Shortfall(tuning, search) if tuning + longest < search else None

    def _own_cost(self, run: TrialRecord) -> float:
        """A run's device-seconds without those that cached the teacher's outputs: whichever run needed them
        first computed them for all."""
        return run.device_seconds - cache_device_seconds(run, devices=self._devices)

    def _search_cost(self) -> float:
        """Device-seconds of finding the searched process, here or elsewhere."""
        return self._own_costs(StageName.SEARCH) + found_elsewhere_seconds(self._history)

    def _own_costs(self, stage: StageName) -> float:
        return math.fsum(map(self._own_cost, self._history.of(stage)))

    def _mean_cost(self, runs: list[TrialRecord]) -> float | None:
        return math.fsum(map(self._own_cost, runs)) / len(runs) if runs else None

    def _device_seconds(self) -> dict[str, float]:
        """By stage, the caching of the teacher's outputs apart."""
        stages = [stage for stage in StageName if stage is not StageName.EXPORT]
        spent = {stage.value: self._own_costs(stage) for stage in stages}
        cached = (cache_device_seconds(trial, devices=self._devices) for trial in self._history)
        spent["teacher_cache"] = math.fsum(cached)
        return {**spent, "total": math.fsum(spent.values())}

    def _counts(self) -> dict[str, int]:
        """Trials by stage; the replays, which belong to the search, apart."""
        return {
            "search": len(learning_trials(self._history)),
            "replay": len(replay_trials(self._history)),
            "tuning": len(self._history.of(StageName.TUNING)),
            "proof": len(self._history.of(StageName.PROOF)),
        }

    def _test_images(self) -> int:
        run = completed(self._history.of(StageName.PROOF))[0]
        return int((run.result or {})["images"])

    def _longer_sentence(self) -> str | None:
        difference = self._difference(ArmName.SEARCHED, ArmName.LONGER_KD)
        tuned, searched, longer = ArmName.TUNED_KD, ArmName.SEARCHED, ArmName.LONGER_KD
        if difference is None or not self._is_sound(tuned):
            return None
        return longer_sentence(
            difference,
            longer_over_tuned=self._compared(longer, tuned),
            searched=self._choice(searched),
            tuned=self._choice(tuned),
            longer=self._choice(longer),
            search_seconds=self._search_cost(),
            epochs=self._proof.longer_epochs(),
        )

    def _choice(self, arm: ArmName) -> Choice:
        runs = self._runs(arm)
        return Choice(mean_and_deviation([accuracy(run) for run in runs])[0], self._mean_cost(runs) or 0.0)


def report_of(spec: JobSpec, history: History) -> tuple[dict[str, Any], ArmName]:
    """The report, and the arm of proof whose recipe and student are kept."""
    report = JobReport(spec, history)
    return report.as_json(), report.verdict.arm.proof_arm


def _difference_json(difference: Difference) -> dict[str, Any]:
    return {
        "arm": difference.arm.value,
        "baseline": difference.baseline.value,
        "mean": difference.mean,
        "lower": difference.lower,
        "upper": difference.upper,
        "seeds": difference.seeds,
    }
