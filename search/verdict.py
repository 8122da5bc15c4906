"""The verdict: which arm is to be used, by paired differences with 95% intervals. Imports no torch.

`searched` only if its paired difference to tuned KD is above zero with its whole interval; else tuned KD by
the same test over the student alone; else the student alone. What cannot be compared does not win.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from search.arms import ArmName

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
    arm: ArmName, baseline: ArmName, *, runs: Mapping[int, float], against: Mapping[int, float]
) -> Difference:
    """Student's t interval of the mean of runs - against, paired by seed.

    Raises ValueError with fewer than two common seeds: one pair has no spread.
    """
    seeds = sorted(runs.keys() & against.keys())
    if len(seeds) < 2:
        raise ValueError(f"{arm} and {baseline} have {len(seeds)} seeds in common; two or more are needed")
    from scipy.stats import t

    mean, deviation = mean_and_deviation([runs[seed] - against[seed] for seed in seeds])
    quantile = float(t.ppf(0.5 + CONFIDENCE / 2, len(seeds) - 1))
    half = quantile * deviation / math.sqrt(len(seeds))
    return Difference(arm, baseline, mean, mean - half, mean + half, len(seeds))


@dataclass(frozen=True)
class Verdict:
    """Which arm, and one sentence that says why."""

    arm: VerdictArm
    sentence: str


def judge(over_tuned: Difference | None, over_alone: Difference | None) -> Verdict:
    """The verdict from searched - tuned KD and tuned KD - student alone; None where runs failed."""
    if over_tuned is not None and over_tuned.lower > 0:
        return Verdict(
            VerdictArm.SEARCHED,
            f"Use the searched process: it beats tuned KD by {over_tuned.in_words()}.",
        )
    searched = _why_not("the searched process", "tuned KD", over_tuned)
    if over_alone is not None and over_alone.lower > 0:
        return Verdict(
            VerdictArm.PLAIN_KD,
            f"Use tuned KD: it beats the student trained alone by {over_alone.in_words()}; {searched}.",
        )
    tuned = _why_not("tuned KD", "the student alone", over_alone)
    return Verdict(
        VerdictArm.STUDENT_ALONE,
        f"Train the student alone: distillation has not been shown to help; {tuned}, and {searched}.",
    )


def _why_not(arm: str, baseline: str, difference: Difference | None) -> str:
    if difference is None:
        return f"{arm} could not be compared with {baseline}, because runs failed"
    if difference.upper < 0:
        return f"{arm} is worse than {baseline}: {difference.in_words()}"
    return f"{arm} is not shown to be better than {baseline}: {difference.in_words()}"
