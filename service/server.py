"""Running the API: address, keys, schema and an orderly end."""

from __future__ import annotations

import socket

import structlog
import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.authentication import is_loopback
from service.settings import Settings
from service.store import keys
from service.store.schema import check_schema, migrate
from service.store.session import Store, open_store

GRACE_SECONDS = 5
KEEP_ALIVE_SECONDS = 30
BACKLOG = 2048

log = structlog.get_logger(__name__)


class StartRefused(Exception):  # noqa: N818  (says what happened)
    """The server must not, or cannot, start; the message says what to do."""


class Server(uvicorn.Server):
    """Ends event streams before it waits for open requests: they would never end by themselves."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def main_loop(self) -> None:
        await super().main_loop()
        self._app.state.services.streams.close()


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartRefused, or a SchemaError of the store."""
    prepare_schema(settings)
    store = open_store(settings.database_url)
    try:
        refuse_open_door(settings, store)
        listener = listen(settings.host, settings.port)
        app = create_app(settings, store)
        log.info("listening", url=address_of(settings.host, listener))
        Server(_configuration(app), app).run(sockets=[listener])
    finally:
        store.close()


def prepare_schema(settings: Settings) -> None:
    """Bring an embedded SQLite database up to date; of a PostgreSQL server only check that it is.

    Several processes may share a PostgreSQL server: there, migrating is a step of its own.
    """
    if settings.database_url.startswith("sqlite"):
        migrate(settings.database_url)
    else:
        check_schema(settings.database_url)


def refuse_open_door(settings: Settings, store: Store) -> None:
    """Without a key everybody who can connect may do everything: then only this machine may."""
    if is_loopback(settings.host):
        return
    with store.session() as session:
        has_key = keys.any_valid(session)
    if not has_key:
        raise StartRefused(
            f"There is no API key yet, so everybody who reaches {settings.host} could submit jobs. "
            "Make one with `python -m service keys create --name admin --scopes admin`, or bind to 127.0.0.1."
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. Raises StartRefused when it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sends small packets at once only if the protocol is named here; without it an answer whose
        # headers and body are written apart takes 40 ms longer (measured).
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        reason = error.strerror or error
        raise StartRefused(
            f"Cannot listen on {host} port {port}: {reason}. Is another Limbeck running? "
            "Choose another port with --port or LIMBECK_PORT."
        ) from error
    return listener


def address_of(host: str, listener: socket.socket) -> str:
    """The address that clients use."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


def _configuration(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
