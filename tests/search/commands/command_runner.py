"""Commands of `search` run in this process; what they print and how they end is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.testing import CliRunner, Result


def invoke(main: Callable[..., Any], *arguments: object) -> Result:
    """The command with these arguments."""
    app = typer.Typer(add_completion=False)
    app.command()(main)
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [str(one) for one in arguments])
