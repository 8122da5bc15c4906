"""Around every request: its id, its bounds, its log line, its metrics, and an answer whatever happens."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from contextlib import suppress
from http import HTTPStatus

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics
from service.problems import Code, Problem

REQUEST_ID = "X-Request-ID"
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
DROP_BYTES = 20_000_000
DROP_SECONDS = 2.0
CLIENT_WENT_AWAY = 499  # nginx's number; nobody receives it, the log shows it

log = structlog.get_logger("limbeck.http")


class RequestMiddleware:
    """Outermost middleware: nothing leaves the application but by here."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, body_limit_bytes: int) -> None:
        self._app = app
        self._metrics = metrics
        self._body_limit_bytes = body_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = _request_id(scope)
        exchange = Exchange(scope, receive, send, body_limit_bytes=self._body_limit_bytes)
        with structlog.contextvars.bound_contextvars(request_id=scope["request_id"]):
            try:
                await self._carry_out(exchange)
            finally:
                self._record(exchange)

    async def _carry_out(self, exchange: Exchange) -> None:
        try:
            exchange.refuse_announced_excess()
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            exchange.status = exchange.status or CLIENT_WENT_AWAY
        except BodyTooLargeError:
            await exchange.answer_too_large()
        except Exception:
            log.exception("request failed", method=exchange.scope["method"], path=exchange.scope["path"])
            if exchange.status is not None:
                raise
            detail = "Something went wrong inside; the log has it under the request id."
            await exchange.answer(Problem(Code.INTERNAL, detail))

    def _record(self, exchange: Exchange) -> None:
        scope, seconds = exchange.scope, time.perf_counter() - exchange.started
        status = exchange.status or CLIENT_WENT_AWAY
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.requests.labels(scope["method"], route, str(status)).inc()
        if not exchange.is_stream:
            self._metrics.latency.labels(scope["method"], route).observe(seconds)
        log.log(
            40 if status >= HTTPStatus.INTERNAL_SERVER_ERROR else 20,
            "request",
            method=scope["method"],
            path=scope["path"],
            route=route,
            status=status,
            milliseconds=round(seconds * 1000, 2),
            client=scope["client"][0] if scope.get("client") else None,
            principal=scope.get("principal"),
        )


class BodyTooLargeError(Exception):
    """More was sent, or announced, than the server takes."""


class Exchange:
    """One request and its answer, counted on the way: `receive` and `send` stand for the server's own."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, body_limit_bytes: int) -> None:
        self.scope = scope
        self.status: int | None = None
        self.is_stream = False
        self.started = time.perf_counter()
        self._receive = receive
        self._send = send
        self._body_limit_bytes = body_limit_bytes
        self._received_bytes = 0

    def refuse_announced_excess(self) -> None:
        """Raise BodyTooLargeError before a byte of the body has been read."""
        announced = Headers(scope=self.scope).get("content-length", "")
        if announced.isdigit() and int(announced) > self._body_limit_bytes:
            raise BodyTooLargeError

    async def receive(self) -> Message:
        message = await self._receive()
        self._received_bytes += len(message.get("body", b""))
        if self._received_bytes > self._body_limit_bytes:
            raise BodyTooLargeError
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self.scope["request_id"]
            headers["X-Content-Type-Options"] = "nosniff"
            self.is_stream = headers.get("content-type", "").startswith("text/event-stream")
        await self._send(message)

    async def answer(self, problem: Problem) -> None:
        response = problem.response(instance=self.scope["path"], request_id=self.scope["request_id"])
        await response(self.scope, self.receive, self.send)

    async def answer_too_large(self) -> None:
        """Answer 413 at once; then read and drop what is still being sent, up to what an honest mistake
        sends: closed earlier, the connection would be reset, and the client could lose the answer.
        """
        detail = f"A body may have at most {self._body_limit_bytes} bytes."
        problem = Problem(Code.BODY_TOO_LARGE, detail, headers={"Connection": "close"})
        response = problem.response(instance=self.scope["path"], request_id=self.scope["request_id"])
        await self.send({"type": "http.response.start", "status": 413, "headers": response.raw_headers})
        await self.send({"type": "http.response.body", "body": response.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(DROP_SECONDS):
                await self._drop(DROP_BYTES)
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drop(self, limit_bytes: int) -> None:
        while limit_bytes > 0:
            message = await self._receive()
            if message["type"] != "http.request" or not message.get("more_body"):
                return
            limit_bytes -= len(message.get("body", b""))


def _request_id(scope: Scope) -> str:
    """The client's own id if it is a plain word, else a new one."""
    sent = Headers(scope=scope).get(REQUEST_ID, "")
    return sent if _ACCEPTED_ID.fullmatch(sent) else f"req_{secrets.token_hex(8)}"
