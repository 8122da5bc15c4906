"""A job's progress on standard error: its stage, and how many of its trials are done."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

STAGES = ("teacher", "preflight", "search", "tuning", "proof", "export")


class Display(Protocol):
    """What is told how a job stands."""

    def update(self, document: Mapping[str, Any]) -> None:
        """Show the job as it is now."""


class ProgressBar:
    """A bar of done and known trials. On something that is no terminal: `lines`, one per change of stage."""

    def __init__(self, console: Console | None = None, *, lines: bool = True) -> None:
        self.console = console or Console(stderr=True)
        self._lines = lines and not self.console.is_terminal
        self._shown = ""
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("queued", total=None, note="")

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def update(self, document: Mapping[str, Any]) -> None:
        """Show the job as it is now."""
        progress = document.get("progress") or {}
        self._bar.update(
            self._task,
            description=headline(document),
            completed=progress.get("trials_done") or 0,
            total=progress.get("trials_total"),
            note=progress.get("message") or "",
        )
        if self._lines and headline(document) != self._shown:
            self._shown = headline(document)
            self.console.print(self._shown, markup=False, highlight=False)


def headline(document: Mapping[str, Any]) -> str:
    """State and stage in a few words: `running: search`, or `queued (no_resources)`."""
    state = str(document.get("state"))
    stage = (document.get("progress") or {}).get("stage")
    if state == "running" and stage:
        return f"running: {stage}"
    reason = document.get("status_reason")
    return f"{state} ({reason})" if reason and state != "succeeded" else state


class _NoDisplay:
    def update(self, document: Mapping[str, Any]) -> None:
        pass


def no_progress() -> AbstractContextManager[Display]:
    """A display that shows nothing."""
    return nullcontext(_NoDisplay())
