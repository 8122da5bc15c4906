"""What the library can do: `python -m search` lists its commands and its methods."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from search.registry import load_everything, methods

COMMANDS = {
    "python -m search.find": "search for the distillation process of a pair of models",
    "python -m search.distill": "train a student by a recipe, or by plain knowledge distillation",
    "python -m search.proof": "search, train every arm with several seeds, and judge; or prove a recipe",
}


def main() -> None:
    """Print the commands and the registered methods, plug-ins included."""
    load_everything()
    console = Console()
    for command, purpose in COMMANDS.items():
        console.print(f"[bold]{command}[/bold]  {purpose}", highlight=False)
    table = Table("kind", "name", "what it is", "source")
    for method in methods():
        table.add_row(method.kind.value, method.name, method.summary, method.source)
    console.print(table)


if __name__ == "__main__":
    main()
