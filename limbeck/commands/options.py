"""What several commands share: where Limbeck is, and how they answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from limbeck.client import Client

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, `job_...`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer with JSON on standard output.")]


@dataclass(frozen=True)
class Connection:
    """What the user said of the server before the command's name."""

    url: str | None = None
    api_key: str | None = None

    def client(self, **more: Any) -> Client:
        """A client; two quick retries only, for somebody is sitting there."""
        return Client(self.url, self.api_key, **{"max_retries": 2, **more})


def client_of(context: typer.Context, **more: Any) -> Client:
    """The client for a command."""
    connection: Connection = context.find_object(Connection) or Connection()
    return connection.client(**more)


def echo_json(value: Any) -> None:
    """A JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def echo_json_line(value: Any) -> None:
    """A JSON document on a line of standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))
