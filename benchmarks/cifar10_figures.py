"""The figures of the CIFAR-10 benchmark, from accuracies and seconds alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from benchmarks.results import Goal, Result
from search.planning.arms import ArmName
from search.planning.verdict import Difference, paired_difference

TEST_IMAGES = 10_000
Accuracies = Mapping[int, float]
"""Test accuracy in [0, 1] by seed."""


@dataclass(frozen=True)
class Figures:
    """What one schedule gave. `*_curve`: accuracies by epochs, each run with its whole schedule."""

    epochs: int
    arms: Mapping[str, Accuracies]
    plain_curve: Mapping[int, Accuracies]
    searched_curve: Mapping[int, Accuracies]
    replay_cost: float
    search_seconds: float
    tuning_seconds: float


def difference(arm: Accuracies, baseline: Accuracies) -> Difference:
    """Paired by seed, over the seeds that both have; two at least."""
    return paired_difference(
        ArmName.SEARCHED, ArmName.TUNED_KD, runs=arm, against=baseline, test_images=TEST_IMAGES
    )


def points(arm: Accuracies, baseline: Accuracies) -> float:
    """Mean paired difference in percentage points; NaN without a common seed."""
    seeds = arm.keys() & baseline.keys()
    return 100 * fmean(arm[seed] - baseline[seed] for seed in seeds) if seeds else math.nan


def lower(arm: Accuracies, baseline: Accuracies) -> float:
    """The 95% lower bound of the same; NaN with fewer than two common seeds."""
    return 100 * difference(arm, baseline).lower if len(arm.keys() & baseline.keys()) > 1 else math.nan


def epochs_fraction(figures: Figures) -> float:
    """Share of plain KD's epochs after which the searched process reaches plain KD's final accuracy.

    Means over the seeds that all have. Between the numbers of epochs that were run they are interpolated
    linearly; infinite where it is not reached, and the smallest share that was run where all reach it.
    """
    plain, searched = figures.arms["plain_kd"], sorted(figures.searched_curve.items())
    seeds = set(plain).intersection(*(runs for _, runs in searched))
    goal = fmean(plain[seed] for seed in seeds)
    curve = [(epochs, fmean(runs[seed] for seed in seeds)) for epochs, runs in searched]
    if curve[0][1] >= goal:
        return curve[0][0] / figures.epochs
    for (before, low), (after, high) in pairwise(curve):
        if high >= goal:
            return (before + (after - before) * (goal - low) / (high - low)) / figures.epochs
    return math.inf


def saturation(figures: Figures) -> float:
    """What plain KD gains, in points, by training for the longest instead of this schedule's epochs."""
    return points(figures.plain_curve[max(figures.plain_curve)], figures.plain_curve[figures.epochs])


def results(short: Figures, long: Figures) -> list[Result]:
    """All figures, with their goals."""
    searched, tuned = "searched", "tuned_kd"
    longer = ("longer_kd_replay", "longer_plain_kd_replay", "longer_kd_total")
    found = []
    for prefix, part, goal in (("cifar10", short, Goal(">", 1.0)), ("cifar10_long", long, None)):
        arms = part.arms
        found += [
            Result(f"{prefix}_gain_points", points(arms[searched], arms[tuned]), "points"),
            Result(f"{prefix}_gain_lower", lower(arms[searched], arms[tuned]), "points", goal),
            Result(f"{prefix}_gain_over_plain_points", points(arms[searched], arms["plain_kd"]), "points"),
            Result(f"{prefix}_schedule_points", points(arms["schedule"], arms["constant"]), "points"),
            Result(f"{prefix}_search_seconds", part.search_seconds, "device_seconds"),
            Result(f"{prefix}_tuning_seconds", part.tuning_seconds, "device_seconds"),
        ]
    replay, plain_replay, total = (points(long.arms[searched], long.arms[name]) for name in longer)
    in_short = [points(short.arms[searched], short.arms[name]) for name in longer]
    return [
        *found,
        Result("cifar10_short_vs_longer_replay_points", in_short[0], "points"),
        Result("cifar10_short_vs_longer_plain_replay_points", in_short[1], "points"),
        Result("cifar10_short_vs_longer_total_points", in_short[2], "points"),
        Result("cifar10_long_saturation_points", saturation(long), "points"),
        Result("cifar10_replay_cost", max(short.replay_cost, long.replay_cost), "ratio", Goal("<=", 1.15)),
        Result("cifar10_vs_longer_replay_points", replay, "points", Goal(">", 0.0)),
        Result("cifar10_vs_longer_plain_replay_points", plain_replay, "points", Goal(">", 0.0)),
        Result("cifar10_vs_longer_total_points", total, "points"),
        Result("cifar10_epochs_fraction", epochs_fraction(long), "ratio", Goal("<=", 0.5)),
    ]


def verdict(short: Figures, long: Figures) -> list[str]:
    """In which of these regimes the searched process, and in which longer KD, is the better use of time."""
    sentences = []
    for name, part in (("short", short), ("saturating", long)):
        gain = difference(part.arms["searched"], part.arms["tuned_kd"])
        sentences.append(
            f"At the {name} schedule ({part.epochs} epochs) the searched process differs from tuned KD of "
            f"the same length by {gain.in_words()}."
        )
        for arm, compute in (
            ("longer_kd_replay", "tuned KD trained for the compute of one replay"),
            ("longer_plain_kd_replay", "plain KD trained for as long"),
            ("longer_kd_total", "tuned KD trained for the compute of search and one replay"),
        ):
            sentences.append(f"Against {compute}: {_who_is_ahead(part.arms['searched'], part.arms[arm])}.")
    return sentences


def _who_is_ahead(searched: Accuracies, longer: Accuracies) -> str:
    """In words; from two seeds on with the interval, which may say that nobody is."""
    gap = points(searched, longer)
    if len(searched.keys() & longer.keys()) < 2:
        return f"{_ahead(gap)} by {abs(gap):.1f} points in one seed"
    found = difference(searched, longer)
    if found.lower <= 0 <= found.upper:
        return f"they cannot be told apart, {found.in_words()}"
    return f"{_ahead(gap)}, {found.in_words()}"


def _ahead(gap: float) -> str:
    return f"{'the searched process' if gap > 0 else 'longer KD'} is ahead"
