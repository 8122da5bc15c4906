"""What the library can do: `python -m search` lists its commands and its methods."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from search.data import data_kinds
from search.registry import Kind, Method, load_everything, methods

COMMANDS = {
    "python -m search.find": "search for the distillation process of a pair of models",
    "python -m search.distill": "train a student by a recipe, or by plain knowledge distillation",
    "python -m search.proof": "search, train every arm with several seeds, and judge; or prove a recipe",
    "python -m search methods": "all methods with their settings; --json for programs",
}
PIPED_WIDTH = 160

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """List the commands and the registered methods of every kind, plug-ins included."""
    if context.invoked_subcommand is None:
        overview()


def overview() -> None:
    """Print the commands, the methods of every kind and the kinds of data sets."""
    load_everything()
    console = _console()
    console.print("[bold]Commands[/bold] (each lists its options with --help)")
    console.print(_grid(list(COMMANDS.items())))
    _print_methods(console, methods())
    console.print("\n[bold]data sets[/bold] (docs/datasets.md)", highlight=False)
    console.print(_grid(list(data_kinds().items())))


@app.command(name="methods")
def list_methods(
    kind: Annotated[Kind | None, typer.Option("--kind", help="Only methods of this kind.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="All that is known of each: needs, settings, paper, differences.")
    ] = False,
) -> None:
    """List the methods, plug-ins included."""
    load_everything()
    if as_json:
        typer.echo(json.dumps([method.described() for method in methods(kind)], indent=2))
    else:
        _print_methods(_console(), methods(kind))


def _print_methods(console: Console, listed: list[Method]) -> None:
    for kind, found in groupby(listed, key=lambda method: method.kind):
        console.print(f"\n[bold]{kind.replace('_', ' ')}[/bold]", highlight=False)
        console.print(_grid([_row(method) for method in found]))


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)


def _row(method: Method) -> tuple[str, str, str]:
    return method.name, method.summary, method.source


def _grid(rows: list[tuple[str, ...]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="cyan")
    for row in rows:
        grid.add_row(f"  {row[0]}", *row[1:])
    return grid


if __name__ == "__main__":
    app()
