"""`limbeck doctor`."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table
from rich.text import Text

from limbeck.commands.options import AsJson, client_of, echo_json
from limbeck.doctor import Severity, examine
from limbeck.render import console

STYLES = {Severity.FINE: "green", Severity.NOTE: "yellow", Severity.FAULT: "red"}


def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Look at this machine and at the server: what works, what does not, and what to do about it.

    Exits with 1 if something is wrong; what is merely worth knowing (`note`) is no fault.
    """
    with client_of(context, max_retries=0, timeout=5.0) as client:
        findings = examine(client)
    if as_json:
        echo_json([asdict(finding) for finding in findings])
    else:
        table = Table(show_header=False, box=None, pad_edge=False)
        for finding in findings:
            words = Text(finding.found)
            if finding.remedy:
                words.append(f"\n{finding.remedy}", style="bold")
            table.add_row(
                Text(finding.severity.value, style=STYLES[finding.severity]), finding.subject, words
            )
        console().print(table)
    if any(finding.severity is Severity.FAULT for finding in findings):
        raise typer.Exit(1)
