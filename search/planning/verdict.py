"""The verdict: which arm is to be used, by paired differences with 95% intervals. Imports no torch.

`searched` only if its paired differences to tuned KD and to the student alone are above zero with their whole
intervals, and KD was tuned with as much compute as the search took; else tuned KD by the same test over the
student alone; else the student alone. What cannot be compared does not win. Without labels there is no
student alone: `searched` by the same test over tuned KD, else tuned KD.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeGuard

from search.planning.arms import ArmName

CONFIDENCE = 0.95


class VerdictArm(StrEnum):
    """What may be recommended. `plain_kd` is fixed KD, tuned."""

    SEARCHED = "searched"
    PLAIN_KD = "plain_kd"
    STUDENT_ALONE = "student_alone"

    @property
    def proof_arm(self) -> ArmName:
        """The arm of proof whose recipe and student are kept."""
        return ArmName.TUNED_KD if self is VerdictArm.PLAIN_KD else ArmName(self.value)


@dataclass(frozen=True)
class Difference:
    """Mean of arm - baseline, paired by seed, with its confidence interval; accuracies in [0, 1]."""

    arm: ArmName
    baseline: ArmName
    mean: float
    lower: float
    upper: float
    seeds: int

    def in_words(self) -> str:
        """In percentage points, for a sentence."""
        figures = [abs(100 * value) for value in (self.mean, self.lower, self.upper)]
        digits = 1 if all(figure == 0 or figure >= 0.05 for figure in figures) else 2
        mean, lower, upper = (f"{100 * value:+.{digits}f}" for value in (self.mean, self.lower, self.upper))
        return f"{mean} percentage points (95% interval {lower} to {upper}, {self.seeds} seeds)"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1 in the denominator; 0 for a single value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def paired_difference(
    arm: ArmName,
    baseline: ArmName,
    *,
    runs: Mapping[int, float],
    against: Mapping[int, float],
    test_images: int,
) -> Difference:
    """Student's t interval of the mean of runs - against, paired by seed.

    Accuracies are multiples of 1 / test_images, so a few seeds may differ by exactly the same; their standard
    deviation counts as one image at least. Raises ValueError with fewer than two common seeds.
    """
    seeds = sorted(runs.keys() & against.keys())
    if len(seeds) < 2:
        raise ValueError(f"{arm} and {baseline} have {len(seeds)} seeds in common; two or more are needed")
    from scipy.stats import t

    mean, deviation = mean_and_deviation([runs[seed] - against[seed] for seed in seeds])
    quantile = float(t.ppf(0.5 + CONFIDENCE / 2, len(seeds) - 1))
    half = quantile * max(deviation, 1 / test_images) / math.sqrt(len(seeds))
    return Difference(arm, baseline, mean, mean - half, mean + half, len(seeds))


@dataclass(frozen=True)
class Shortfall:
    """Tuning of KD that ended with less compute than the search had, in device-seconds."""

    tuning: float
    search: float

    def in_words(self) -> str:
        """For a sentence."""
        return f"KD was tuned for only {self.tuning:.3g} of the search's {self.search:.3g} device-seconds"


@dataclass(frozen=True)
class Verdict:
    """Which arm, and one sentence that says why."""

    arm: VerdictArm
    sentence: str


def judge(
    *,
    searched_over_tuned: Difference | None,
    searched_over_alone: Difference | None,
    tuned_over_alone: Difference | None,
    shortfall: Shortfall | None = None,
) -> Verdict:
    """The verdict from paired differences; None where runs failed. With a shortfall nothing is proved."""
    if _is_better(searched_over_tuned) and _is_better(searched_over_alone) and shortfall is None:
        return Verdict(
            VerdictArm.SEARCHED,
            "Use the searched process: it beats tuned KD by "
            f"{searched_over_tuned.in_words()}, and the student alone by {searched_over_alone.in_words()}.",
        )
    searched = _why_not_searched(searched_over_tuned, searched_over_alone, shortfall)
    if _is_better(tuned_over_alone):
        return Verdict(
            VerdictArm.PLAIN_KD,
            f"Use tuned KD: it beats the student trained alone by {tuned_over_alone.in_words()}; {searched}.",
        )
    tuned = _why_not("tuned KD", "the student alone", tuned_over_alone)
    return Verdict(
        VerdictArm.STUDENT_ALONE,
        f"Train the student alone: distillation has not been shown to help; {tuned}, and {searched}.",
    )


def judge_without_labels(
    searched_over_tuned: Difference | None, *, figure: str, shortfall: Shortfall | None = None
) -> Verdict:
    """The verdict of a job without labels; `figure` says in words what both arms were judged by."""
    measured = f"by {figure} on test images"
    if _is_better(searched_over_tuned) and shortfall is None:
        return Verdict(
            VerdictArm.SEARCHED,
            f"Use the searched process: {measured} it beats tuned KD by {searched_over_tuned.in_words()}.",
        )
    if _is_better(searched_over_tuned):
        assert shortfall is not None
        reason = _unproved(searched_over_tuned, f"; {shortfall.in_words()}")
    else:
        untuned = f"; {shortfall.in_words()}" if shortfall else ""
        reason = f"{_why_not('the searched process', 'tuned KD', searched_over_tuned)}{untuned}"
    return Verdict(VerdictArm.PLAIN_KD, f"Use tuned KD: {measured} {reason}.")


def _is_better(difference: Difference | None) -> TypeGuard[Difference]:
    """Whether the whole interval is above zero."""
    return difference is not None and difference.lower > 0


def _why_not_searched(
    over_tuned: Difference | None, over_alone: Difference | None, shortfall: Shortfall | None
) -> str:
    arm, alone = "the searched process", "the student alone"
    untuned = f"; {shortfall.in_words()}" if shortfall else ""
    if not _is_better(over_tuned):
        return f"{_why_not(arm, 'tuned KD', over_tuned)}{untuned}"
    if not _is_better(over_alone):
        return f"{_why_not(arm, alone, over_alone)}{untuned}"
    return _unproved(over_tuned, untuned)


def _unproved(over_tuned: Difference, untuned: str) -> str:
    return f"the searched process beats tuned KD by {over_tuned.in_words()}, but that is no proof{untuned}"


def _why_not(arm: str, baseline: str, difference: Difference | None) -> str:
    if difference is None:
        return f"{arm} could not be compared with {baseline}, because runs failed"
    if difference.upper < 0:
        return f"{arm} is worse than {baseline}: {difference.in_words()}"
    return f"{arm} is not shown to be better than {baseline}: {difference.in_words()}"
