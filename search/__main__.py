"""What the library can do: `python -m search` lists its commands and its methods."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.table import Table

from search.data import data_kinds
from search.registry import Method, load_everything, methods

COMMANDS = {
    "python -m search.find": "search for the distillation process of a pair of models",
    "python -m search.distill": "train a student by a recipe, or by plain knowledge distillation",
    "python -m search.proof": "search, train every arm with several seeds, and judge; or prove a recipe",
}
PIPED_WIDTH = 160


def main() -> None:
    """Print the commands and the registered methods of every kind, plug-ins included."""
    load_everything()
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    console.print("[bold]Commands[/bold] (each lists its options with --help)")
    console.print(_grid(list(COMMANDS.items())))
    for kind, found in groupby(methods(), key=lambda method: method.kind):
        console.print(f"\n[bold]{kind.replace('_', ' ')}[/bold]", highlight=False)
        console.print(_grid([_row(method) for method in found]))
    console.print("\n[bold]data sets[/bold] (docs/datasets.md)", highlight=False)
    console.print(_grid(list(data_kinds().items())))


def _row(method: Method) -> tuple[str, str, str]:
    return method.name, method.summary, method.source


def _grid(rows: list[tuple[str, ...]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="cyan")
    for row in rows:
        grid.add_row(f"  {row[0]}", *row[1:])
    return grid


if __name__ == "__main__":
    main()
