"""The report of a job as a page shows it: arms, differences, cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from service.web.charts.intervals import Interval, IntervalChart, interval_chart
from service.web.wording import lower_first, percent, points


@dataclass(frozen=True)
class ArmRow:
    """One way to train, in figures."""

    label: str
    detail: str | None
    mean: float | None
    standard_deviation: float | None
    runs: list[dict[str, Any]]
    failed: str | None
    training_device_seconds: float | None
    search_device_seconds: float | None
    over_tuned: dict[str, Any] | None
    is_baseline: bool
    wins: bool


@dataclass(frozen=True)
class ReportView:
    """The report, drawn and in figures."""

    verdict: dict[str, Any]
    arms: list[ArmRow]
    arms_chart: IntervalChart | None
    differences: list[dict[str, Any]]
    differences_chart: IntervalChart | None
    device_seconds: list[tuple[str, float]]
    total_device_seconds: float | None
    teacher_accuracy: float | None
    test_images: int | None
    seeds: int
    notes: list[str]
    replays: list[dict[str, Any]]
    figure: str
    without_labels: dict[str, Any] | None


def report_view(report: dict[str, Any] | None) -> ReportView | None:
    """The view of a report as JSON; None without one."""
    if report is None:
        return None
    verdict = {"process_kind": None, "longer_sentence": None, **report["verdict"]}
    winner = recommended_arm(report)
    labels = {arm["arm"]: arm["label"] for arm in report["arms"]}
    differences = [_with_labels(one, labels) for one in report.get("differences", [])]
    over_tuned = {one["arm"]: one for one in differences if one["baseline"] == "tuned_kd"}
    arms = [_arm_row(arm, over_tuned, winner) for arm in report["arms"]]
    spent = dict(report.get("device_seconds", {}))
    total = spent.pop("total", None)
    without_labels = report.get("without_labels")
    figure = without_labels["judged_in_words"] if without_labels else "accuracy"
    return ReportView(
        verdict=verdict,
        arms=arms,
        arms_chart=_arms_chart(arms, figure),
        differences=differences,
        differences_chart=_differences_chart(differences),
        device_seconds=list(spent.items()),
        total_device_seconds=total,
        teacher_accuracy=(report.get("teacher") or {}).get("accuracy"),
        test_images=report.get("test_images"),
        seeds=max((len(arm.runs) for arm in arms), default=0),
        notes=list(report.get("notes", [])),
        replays=list(report.get("replays", [])),
        figure=figure,
        without_labels=without_labels,
    )


def recommended_arm(report: dict[str, Any]) -> str:
    """The arm of proof that the verdict recommends."""
    return str(report["verdict"]["proof_arm"])


def _arm_row(arm: dict[str, Any], over_tuned: dict[str, dict[str, Any]], winner: str) -> ArmRow:
    return ArmRow(
        label=arm["label"],
        detail=arm.get("detail"),
        mean=arm.get("mean"),
        standard_deviation=arm.get("standard_deviation"),
        runs=list(arm.get("runs", [])),
        failed=arm.get("failed"),
        training_device_seconds=arm.get("training_device_seconds"),
        search_device_seconds=arm.get("search_device_seconds"),
        over_tuned=over_tuned.get(arm["arm"]),
        is_baseline=arm["arm"] == "tuned_kd",
        wins=arm["arm"] == winner,
    )


def _with_labels(difference: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    arm, baseline = difference["arm"], difference["baseline"]
    return {
        **difference,
        "label": f"{_short(labels.get(arm, arm))} − {lower_first(_short(labels.get(baseline, baseline)))}",
        "is_clear": difference["lower"] > 0 or difference["upper"] < 0,
    }


def _short(label: str) -> str:
    """Beside a chart there is little room."""
    return label.removesuffix(" process")


def _arms_chart(arms: list[ArmRow], figure: str) -> IntervalChart | None:
    intervals = []
    for arm in arms:
        if arm.mean is None:
            continue
        deviation = arm.standard_deviation
        intervals.append(
            Interval(
                arm.label,
                100 * arm.mean,
                low=None if deviation is None else 100 * (arm.mean - deviation),
                high=None if deviation is None else 100 * (arm.mean + deviation),
                dots=[100 * run["accuracy"] for run in arm.runs],
                winner=arm.wins,
                text=f"{arm.label}: {percent(arm.mean, 2)} ± {percent(deviation, 2)}",
            )
        )
    return interval_chart(
        intervals,
        title=f"Test {figure} of every arm",
        x_label=f"test {figure} in %: mean ± sd, and every seed",
    )


def _differences_chart(differences: list[dict[str, Any]]) -> IntervalChart | None:
    intervals = [
        Interval(
            one["label"],
            100 * one["mean"],
            low=100 * one["lower"],
            high=100 * one["upper"],
            winner=one["is_clear"],
            text=f"{one['label']}: {points(one['mean'])} ({points(one['lower'])} to {points(one['upper'])})",
        )
        for one in differences
    ]
    return interval_chart(
        intervals,
        title="Paired differences with 95% intervals",
        x_label="percentage points, paired by seed, with 95% intervals",
        with_zero=True,
    )
