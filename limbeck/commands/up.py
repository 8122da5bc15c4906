"""`limbeck up`."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Annotated

import typer

from limbeck.errors import LimbeckError
from limbeck.house import DEFAULT_PORT, House, is_free, limbeck_home
from limbeck.render import messages


def up(
    host: Annotated[
        str, typer.Option(envvar="LIMBECK_HOST", help="Address to bind to; beyond loopback a key must exist.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="LIMBECK_PORT", min=1, max=65_535)] = DEFAULT_PORT,
) -> None:
    """Start Limbeck on this machine: API and worker, with SQLite and a local Ray. Ends with Ctrl-C."""
    err = messages()
    if not is_free(host, port):
        raise LimbeckError(
            f"Port {port} of {host} is taken. Limbeck may be running there already; `limbeck up --port "
            f"{port + 1}` takes another."
        )
    house = House(
        home=limbeck_home(),
        host=host,
        port=port,
        environment=os.environ,
        say=lambda text: err.print(text, markup=False, style="yellow", soft_wrap=True),
    )
    end_on_signals(house)
    try:
        with err.status("Starting API and worker"):
            house.start()
        if not house.is_stopping:
            err.print(f"Limbeck is up: {house.address}", highlight=False)
            err.print(f"Everything is in {limbeck_home()}; Ctrl-C ends it.", markup=False, highlight=False)
            if port != DEFAULT_PORT:
                err.print(f"For the other commands: export LIMBECK_URL={house.address}", highlight=False)
            house.keep()
    finally:
        with err.status("Ending worker and API"):
            house.end()
    err.print("Limbeck has ended.")


def end_on_signals(house: House) -> None:
    """SIGINT and SIGTERM let the house end in order; a second one ends this process at once.

    The children's own deaths follow from ours then.
    """

    def request(number: int, frame: FrameType | None) -> None:
        house.request_stop()
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, request)
