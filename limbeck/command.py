"""The `limbeck` command.

Exit status: 0 done; 1 it failed (the server, the connection, or the job); 2 wrong usage, or a request that
is refused; 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from limbeck.commands.demo import demo
from limbeck.commands.doctor import doctor
from limbeck.commands.jobs import cancel, jobs, retry, watch
from limbeck.commands.options import Connection
from limbeck.commands.results import download, recipe, report
from limbeck.commands.submit import submit
from limbeck.commands.up import up
from limbeck.errors import ApiError, ConnectionFailed, InvalidRequest, LimbeckError, Unauthorized
from limbeck.render import messages
from limbeck.submission import UnreadableSpec
from limbeck.version import VERSION

FAILED, REFUSED, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="limbeck",
    help="Automated distillation search: the best small model from a teacher, a student, data and a budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
PANELS = {
    "This machine": (up, demo, doctor),
    "Jobs": (submit, jobs, watch, cancel, retry),
    "Results": (report, recipe, download),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(command.__name__, rich_help_panel=panel)(command)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"limbeck {VERSION}")
        raise typer.Exit


@app.callback()
def connection(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(envvar="LIMBECK_URL", help="Where Limbeck is; by default http://127.0.0.1:8300."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LIMBECK_API_KEY", help="API key; better in the environment.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """What all commands share."""
    context.obj = Connection(url, api_key)


def main() -> None:
    """Entry point of `limbeck`."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (InvalidRequest, UnreadableSpec) as error:
        _complain(error)
        sys.exit(REFUSED)
    except LimbeckError as error:
        _complain(error)
        sys.exit(FAILED)


def _complain(error: LimbeckError) -> None:
    """Say what is wrong and what to do, on standard error."""
    err = messages()
    if isinstance(error, ApiError) and error.faults:
        err.print(Text(error.title, style="bold red"))
        for fault in error.faults:
            line = Text.assemble("  ", (fault.field, "bold"), f": {fault.message}")
            err.print(line, soft_wrap=True)
            if fault.remedy:
                err.print(Text(f"    {fault.remedy}", style="green"), soft_wrap=True)
    else:
        err.print(Text(str(error), style="red"), soft_wrap=True)
    hint = _hint(error)
    if hint:
        err.print(Text(hint, style="green"), soft_wrap=True)


def _hint(error: LimbeckError) -> str | None:
    if isinstance(error, ConnectionFailed):
        return "Is Limbeck running there? Start it with `limbeck up`, or set LIMBECK_URL to where it is."
    if isinstance(error, Unauthorized):
        return "Set LIMBECK_API_KEY to a key; `python -m service keys create` makes one on the server."
    return None


if __name__ == "__main__":
    main()
