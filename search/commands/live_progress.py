"""A live bar of the trial at work, and a line for every trial that has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from search.records import Proposal, TrialKey, TrialRecord, TrialState

if TYPE_CHECKING:
    from search.distill import Report

SHOWN_FIGURES = ("loss", "accuracy")
MARKS = {
    TrialState.COMPLETED: "[green]done[/green]",
    TrialState.STOPPED_EARLY: "[yellow]stopped early[/yellow]",
    TrialState.FAILED: "[red]failed[/red]",
}


class LiveProgress:
    """What a job's watcher sees; used as a context, its methods are a LocalJob's hooks."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.figure = "accuracy"  # what the job judges by, in words
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def on_start(self, proposal: Proposal, *, epochs: int | None) -> None:
        """A new bar, of so many epochs; None for a trial that trains nothing."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(_title(proposal.key), total=epochs, figures="")

    def on_report(self, key: TrialKey, report: Report) -> None:
        """The bar moves; the newest figures stand beside it."""
        if self._task is None:
            return
        changes: dict[str, Any] = {"completed": report.epoch}
        words = {"loss": "loss", "accuracy": self.figure}
        figures = [
            f"{words[name]} {report.figures[name]:.3f}" for name in SHOWN_FIGURES if name in report.figures
        ]
        if figures:
            changes["figures"] = " ".join(figures)
        self._bar.update(self._task, **changes)

    def on_end(self, record: TrialRecord) -> None:
        """One line: what came of the trial, and what it took."""
        accuracy = (record.result or {}).get("accuracy")
        shown = f"  {self.figure} {accuracy:.4f}" if isinstance(accuracy, float) else ""
        why = f"  {record.error.message}" if record.error else ""
        self._console.print(
            f"{MARKS[record.state]}  {_title(record.key)}{shown}  {record.device_seconds:.1f} s{why}",
            highlight=False,
        )


def _title(key: TrialKey) -> str:
    words = key.arm.replace("_", " ")
    if words == key.stage:
        return str(key.stage)
    return f"{key.stage}: {words}, seed {key.seed}" + (f", {key.index}" if key.index else "")
