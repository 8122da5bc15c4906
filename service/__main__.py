"""`python -m service`: serve the API and the pages, make API keys, migrate the database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from service.settings import Settings

app = typer.Typer(help="Limbeck's API and pages.", no_args_is_help=False, add_completion=False)
keys_app = typer.Typer(help="API keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

Host = Annotated[str | None, typer.Option(help="Address to bind to; beyond loopback an API key must exist.")]
Port = Annotated[int | None, typer.Option(min=0, max=65_535, help="Port; 0 takes any free one.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Serve, when no command is given."""
    if context.invoked_subcommand is None:
        serve()


@app.command()
def serve(host: Host = None, port: Port = None) -> None:
    """Serve the API and the pages."""
    from service.logs import configure_logs
    from service.server import serve as run_server

    given: dict[str, Any] = {"host": host, "port": port}
    with refusals_in_words():
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        configure_logs(settings.log_level)
        run_server(settings)


@app.command()
def migrate() -> None:
    """Bring the database to this version's schema; safe to run at any time, by several at once."""
    from service.store.schema import migrate as migrate_database

    with refusals_in_words():
        migrate_database(Settings().database_url)
    typer.echo("The database is up to date.")


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Whose key it is, or what for.")],
    scopes: Annotated[str, typer.Option(help="Of read, submit, admin; commas between.")] = "read,submit",
) -> None:
    """Make an API key and show it, for the only time."""
    from service.server import prepare_schema
    from service.store import keys
    from service.store.session import open_store
    from service.store.states import Scope

    asked = [word.strip() for word in scopes.split(",") if word.strip()]
    unknown = [word for word in asked if word not in set(Scope)]
    if unknown or not asked:
        raise typer.BadParameter(f"{', '.join(unknown) or 'none given'}; use some of {', '.join(Scope)}")
    with refusals_in_words():
        settings = Settings()
        prepare_schema(settings)
        store = open_store(settings.database_url)
        with store.begin_write() as session:
            created = keys.create(session, name=name, scopes=[Scope(word) for word in asked])
        store.close()
    typer.echo(f"{created.row.id} ({name}: {', '.join(asked)}). The key is shown only now:", err=True)
    typer.echo(created.clear)


@contextmanager
def refusals_in_words() -> Iterator[None]:
    """End with status 2 and a sentence, instead of a traceback, for what its user can mend."""
    from service.server import StartRefused
    from service.store.errors import StoreError

    try:
        yield
    except ValidationError as error:
        faults = [("_".join(map(str, fault["loc"])).upper(), fault["msg"]) for fault in error.errors()]
        _fail("; ".join(f"LIMBECK_{name}: {message}" if name else message for name, message in faults))
    except (StartRefused, StoreError, ValueError, OSError) as refusal:
        _fail(str(refusal))


def _fail(message: str) -> NoReturn:
    typer.echo(f"limbeck: {message}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    app()
