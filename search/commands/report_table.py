"""A job's report as a terminal shows it: the table of arms, the judged candidates, the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 120
WITHOUT_LABELS = {
    "agreement": "teacher's class",
    "neighbour_agreement": "teacher's neighbour",
    "knn_accuracy": "kNN accuracy",
    "linear_probe_accuracy": "linear probe",
    "out_of_distribution_auroc": "strangers told (AUROC)",
}
"""Columns by the figures of a row."""


def print_report(report: Mapping[str, Any]) -> None:
    """The whole report on standard output; where that is no terminal, as wide as the table needs."""
    console = Console()
    Console(width=None if console.is_terminal else PIPED_WIDTH).print(report_table(report))


def report_table(report: Mapping[str, Any]) -> RenderableType:
    """Arms with mean and standard deviation over the seeds, how far the searched one is ahead, and costs."""
    verdict = report["verdict"]
    parts: list[RenderableType] = [_arms(report), _replays(report), *_without_labels(report)]
    parts += [Text(f"Verdict: {verdict['sentence']}", style="bold")]
    parts += [Text(verdict["longer_sentence"])] if verdict.get("longer_sentence") else []
    parts += [Text(f"- {note}") for note in report["notes"]]
    return Group(*parts)


def _arms(report: Mapping[str, Any]) -> Table:
    epochs, images = report["epochs"], report["test_images"]
    table = Table(
        title=f"Proof: test {_figure(report)} in % on {images} images, {epochs} epochs", title_justify="left"
    )
    table.add_column("arm")
    for name in ("mean ± sd", "searched - arm (95% interval)", "device-s a training", "device-s to find"):
        table.add_column(name, justify="right")
    ahead = {one["baseline"]: one for one in report["differences"] if one["arm"] == "searched"}
    for arm in report["arms"]:
        wins = arm["arm"] == report["verdict"]["proof_arm"]
        table.add_row(
            _label(arm),
            _figures(arm),
            _difference(ahead.get(arm["arm"])),
            _seconds(arm["training_device_seconds"]),
            _seconds(arm["search_device_seconds"]),
            style="bold" if wins else None,
        )
    return table


def _replays(report: Mapping[str, Any]) -> Table:
    table = Table(title="What was learned, as it was judged on validation", title_justify="left")
    table.add_column("candidate")
    for name in (f"{_figure(report)} ± standard error", "pathways", "device-s"):
        table.add_column(name, justify="right")
    for one in report["replays"]:
        table.add_row(
            one["arm"].replace("_", " ") + (" (taken)" if one["chosen"] else ""),
            f"{100 * one['accuracy']:.2f} ± {100 * one['standard_error']:.2f}",
            str(one["pathways"]),
            _seconds(one["device_seconds"]),
            style="bold" if one["chosen"] else None,
        )
    return table


def _figure(report: Mapping[str, Any]) -> str:
    """What the job judged by, in words."""
    return str((report.get("without_labels") or {}).get("judged_in_words", "accuracy"))


def _without_labels(report: Mapping[str, Any]) -> list[RenderableType]:
    """Of a job without labels: what else is known of students and teacher, and what was counted."""
    found = report.get("without_labels")
    if not found:
        return []
    table = Table(title="Only reported, in %: nothing was chosen by it", title_justify="left")
    table.add_column("model")
    for name in WITHOUT_LABELS.values():
        table.add_column(name, justify="right")
    for row in found["rows"]:
        table.add_row(row["label"], *(_percent(row[name]) for name in WITHOUT_LABELS))
    return [table, Text(f"Out of distribution: {found['out_of_distribution']}."), Text(found["sentence"])]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _label(arm: Mapping[str, Any]) -> Text:
    label = Text(arm["label"])
    return label.append(f"\n{arm['detail']}", style="dim") if arm["detail"] else label


def _figures(arm: Mapping[str, Any]) -> str:
    if arm["failed"] or arm["mean"] is None:
        return "failed"
    return f"{100 * arm['mean']:.2f} ± {100 * arm['standard_deviation']:.2f}"


def _difference(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    mean, lower, upper = (100 * difference[name] for name in ("mean", "lower", "upper"))
    return f"{mean:+.2f} ({lower:+.2f} to {upper:+.2f})"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
