"""Reports, jobs and events as they look in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from limbeck.documents import ArmReport, Event, Report
from limbeck.progress import headline

NOTHING = "–"
STATE_STYLES = {
    "queued": "yellow",
    "running": "blue",
    "cancelling": "yellow",
    "paused": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "dim",
}
WITHOUT_LABELS = {
    "agreement": "teacher's\nclass",
    "neighbour_agreement": "teacher's\nneighbour",
    "knn_accuracy": "kNN\naccuracy",
    "linear_probe_accuracy": "linear\nprobe",
    "out_of_distribution_auroc": "strangers told\n(AUROC)",
}
EVENT_STYLES = {"warning": "yellow", "error": "red"}


def report_table(report: Report) -> Table:
    """One row per arm: accuracy over the seeds, difference to tuned KD, and what it cost."""
    seeds = max((len(arm.runs) for arm in report.arms), default=0)
    images = f" on {report.test_images} test images" if report.test_images else ""
    title = f"Proof: {seeds} seeds{images}"
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("arm", no_wrap=True)
    figure = report.without_labels.judged_in_words if report.without_labels else "accuracy"
    heading = f"{figure} in %\nmean ± sd".replace(" with ", "\nwith ")
    table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("over tuned KD in\npoints, 95% interval", justify="right", no_wrap=True)
    table.add_column("training", justify="right", no_wrap=True)
    table.add_column("finding", justify="right", no_wrap=True)
    for arm in report.arms:
        wins = arm.arm == report.verdict.proof_arm
        table.add_row(*_arm_cells(report, arm), style="bold green" if wins else None)
    return table


def _arm_cells(report: Report, arm: ArmReport) -> Sequence[str]:
    if arm.failed or arm.mean is None:
        accuracy = "failed" if arm.failed else NOTHING
    else:
        accuracy = f"{100 * arm.mean:.2f} ± {100 * (arm.standard_deviation or 0):.2f}"
    return (
        escape(arm.label),
        escape(accuracy),
        "baseline" if arm.arm == "tuned_kd" else _difference(report, arm.arm),
        _seconds(arm.training_device_seconds),
        _seconds(arm.search_device_seconds),
    )


def _difference(report: Report, arm: str) -> str:
    found = report.difference(arm)
    if found is None:
        return NOTHING
    if found.lower is None or found.upper is None:
        return f"{100 * found.mean:+.2f}"
    return f"{100 * found.mean:+.2f} ({100 * found.lower:+.2f} to {100 * found.upper:+.2f})"


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def report_view(report: Report) -> RenderableType:
    """The verdict, the arms and the cost."""
    parts: list[RenderableType] = [report_table(report), _cost(report), Text(), *_replays(report)]
    parts += _without_labels(report)
    parts += [Text(f"{arm.label} failed: {arm.failed}", style="red") for arm in report.arms if arm.failed]
    parts += [Text(f"Note: {note}", style="dim") for note in report.notes]
    parts.append(Text(f"Verdict: {report.verdict.sentence}", style="bold"))
    if report.verdict.longer_sentence:
        parts.append(Text(report.verdict.longer_sentence))
    return Group(*parts)


def _replays(report: Report) -> list[Text]:
    """What may become of the learned process, as validation judged it; the one that was taken is marked."""
    if not report.replays:
        return []
    lines = [
        f"{'*' if one.chosen else ' '} {one.arm.replace('_', ' '):16} {100 * one.accuracy:.2f} "
        f"± {100 * one.standard_error:.2f} %, {one.pathways} pathways"
        for one in report.replays
    ]
    heading = "The learned process on validation, ± standard error (* taken: the simplest of the best):"
    return [Text("\n".join([heading, *lines]), style="dim"), Text()]


def _without_labels(report: Report) -> list[RenderableType]:
    """Of a job without labels: what was counted, and what is only reported of students and teacher."""
    found = report.without_labels
    if found is None:
        return []
    title = "Only reported, in %: nothing was chosen by it"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("model", *WITHOUT_LABELS.values()):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in found.rows:
        values = (getattr(row, name) for name in WITHOUT_LABELS)
        table.add_row(
            escape(row.label), *(NOTHING if value is None else f"{100 * value:.2f}" for value in values)
        )
    return [table, Text(f"Strangers: {found.out_of_distribution}. {found.sentence}", style="dim"), Text()]


def _cost(report: Report) -> Text:
    """What the last two columns count, and where it went."""
    spent = {stage: value for stage, value in report.device_seconds.items() if stage != "total"}
    text = "Last columns, in device-seconds: one training with the arm, and finding it."
    if spent:
        total = report.device_seconds.get("total", sum(spent.values()))
        stages = ", ".join(f"{stage.replace('_', ' ')} {value:.1f}" for stage, value in spent.items())
        text += f"\nThe whole job: {stages}; {total:.1f} in all."
    return Text(text, style="dim")


def jobs_table(documents: Sequence[Mapping[str, Any]], *, now: datetime | None = None) -> Table:
    """One row per job."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("job", "state", "trials", "verdict", "submitted"):
        table.add_column(name, no_wrap=True)
    for document in documents:
        progress = document.get("progress") or {}
        state = str(document["state"])
        shown = headline(document) if state == "running" else state
        table.add_row(
            f"{document['id']}\n[dim]{escape(title(document))}[/dim]",
            Text(shown, style=STATE_STYLES.get(state, "")),
            _of(progress.get("trials_done"), progress.get("trials_total")),
            _verdict(document.get("report")),
            age(str(document["created_at"]), now=now),
        )
    return table


def _verdict(report: Mapping[str, Any] | None) -> str:
    arm = str(((report or {}).get("verdict") or {}).get("proof_arm") or NOTHING)
    return arm.replace("_", " ").replace("kd", "KD")


def title(document: Mapping[str, Any]) -> str:
    """The job's name; its task where it has none."""
    if document.get("name"):
        return str(document["name"])
    spec = document.get("spec") or {}
    teachers = " + ".join(str(teacher.get("model")) for teacher in spec.get("teachers", []))
    student, data = spec.get("student") or {}, spec.get("data") or {}
    return f"{teachers} → {student.get('model')} on {data.get('name')}"


def _of(done: int | None, total: int | None) -> str:
    if not done and not total:
        return NOTHING
    return f"{done or 0} of {total}" if total else str(done)


def age(moment: str, *, now: datetime | None = None) -> str:
    """How long ago a moment in RFC 3339 was."""
    passed = ((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds()
    for seconds, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if passed >= seconds:
            return f"{int(passed // seconds)} {name} ago"
    return f"{max(int(passed), 0)} s ago"


def event_line(event: Event) -> Text:
    """An event in a line: time of day (UTC), and what happened."""
    moment = datetime.fromisoformat(event.created_at).astimezone(UTC)
    figures = event.data or {}
    accuracy = figures.get("accuracy")
    text = event.message + (f", {100 * accuracy:.1f} %" if isinstance(accuracy, float) else "")
    return Text.assemble((f"{moment:%H:%M:%S} ", "dim"), (text, EVENT_STYLES.get(event.level, "")))


def preflight_view(preflight: Mapping[str, Any]) -> RenderableType:
    """What a dry run found, as a table of name and value."""
    table = Table(show_header=False, title="Preflight", title_justify="left", title_style="bold")
    for name, value in preflight.items():
        words = name.replace("_", " ")
        if isinstance(value, float):
            table.add_row(words, f"{value:.4g}")
        elif isinstance(value, str | int):
            table.add_row(words, escape(str(value)))
        elif isinstance(value, dict):
            table.add_row(words, escape(", ".join(f"{part} {figure:.4g}" for part, figure in value.items())))
    return Group(table, *(Text(str(note)) for note in preflight.get("notes") or ()))


def console() -> Console:
    """Where results go: standard output."""
    return Console(soft_wrap=False)


def messages() -> Console:
    """Where everything else goes: standard error."""
    return Console(stderr=True, highlight=False)
