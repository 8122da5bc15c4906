"""How flows are carried out: blocking, with httpx.Client, or awaiting, with httpx.AsyncClient."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, TypeVar

import httpx

from limbeck.errors import ConnectionFailed, TimedOut
from limbeck.flow import Call, Effect, Emit, Flow, Open, Pause, Read, Reply, Send

T = TypeVar("T")


def _arguments(call: Call) -> dict[str, Any]:
    arguments: dict[str, Any] = {"params": dict(call.query), "headers": dict(call.headers)}
    if call.body is not None:
        arguments["json"] = call.body
    if call.timeout_seconds is not None:
        arguments["timeout"] = httpx.Timeout(call.timeout_seconds, connect=5.0)
    return arguments


def _reply(response: httpx.Response, content: bytes) -> Reply:
    return Reply(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, content
    )


def _failure(error: httpx.HTTPError | httpx.StreamError, address: httpx.URL) -> ConnectionFailed:
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{address} did not answer in time ({type(error).__name__})", address=str(address))
    return ConnectionFailed(
        f"no answer from {address}: {error or type(error).__name__}", address=str(address)
    )


class Blocking:
    """Carries flows out in the caller's thread."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def run(self, flow: Flow[T]) -> T:
        """Carry the flow out to its end and return what it returns."""
        steps = self._steps(flow)
        try:
            while True:
                next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def iterate(self, flow: Flow[None]) -> Iterator[Any]:
        """Carry the flow out as far as the caller takes items."""
        yield from self._steps(flow)

    def _steps(self, flow: Flow[T]) -> Generator[Any, None, T]:
        stream = _BlockingStream(self.http)
        try:
            effect = next(flow)
            while True:
                if isinstance(effect, Emit):
                    yield effect.item
                    effect = flow.send(None)
                    continue
                try:
                    outcome = stream.perform(effect)
                except (httpx.TransportError, httpx.StreamError) as error:
                    effect = flow.throw(_failure(error, self.http.base_url))
                else:
                    effect = flow.send(outcome)
        except StopIteration as stop:
            result: T = stop.value
            return result
        finally:
            flow.close()
            stream.close()

    def close(self) -> None:
        """Close all connections."""
        self.http.close()


class _BlockingStream:
    """The effects of one flow, and the stream it has open."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.response: httpx.Response | None = None
        self.chunks: Iterator[bytes] = iter(())

    def perform(self, effect: Effect) -> Any:
        match effect:
            case Send(call):
                response = self.http.request(call.method, call.path, **_arguments(call))
                return _reply(response, response.content)
            case Open(call):
                return self.open(call)
            case Read():
                return next(self.chunks, b"")
            case Pause(seconds):
                time.sleep(seconds)
        return None

    def open(self, call: Call) -> Reply:
        self.close()
        request = self.http.build_request(call.method, call.path, **_arguments(call))
        self.response = self.http.send(request, stream=True)
        if self.response.is_error:
            return _reply(self.response, self.response.read())
        self.chunks = self.response.iter_bytes()
        return _reply(self.response, b"")

    def close(self) -> None:
        if self.response is not None:
            self.response.close()
        self.response, self.chunks = None, iter(())


class Awaiting:
    """Carries flows out in an asyncio event loop."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def run(self, flow: Flow[T]) -> T:
        """Carry the flow out to its end and return what it returns."""
        returned: list[T] = []
        async for _ in self._steps(flow, returned):
            pass
        return returned[0]

    async def iterate(self, flow: Flow[None]) -> AsyncIterator[Any]:
        """Carry the flow out as far as the caller takes items."""
        steps = self._steps(flow, [])
        try:
            async for item in steps:
                yield item
        finally:
            await steps.aclose()

    async def _steps(self, flow: Flow[T], returned: list[T]) -> AsyncGenerator[Any, None]:
        # An asynchronous generator cannot return a value, so it is left in `returned`.
        stream = _AwaitingStream(self.http)
        try:
            effect = next(flow)
            while True:
                if isinstance(effect, Emit):
                    yield effect.item
                    effect = flow.send(None)
                    continue
                try:
                    outcome = await stream.perform(effect)
                except (httpx.TransportError, httpx.StreamError) as error:
                    effect = flow.throw(_failure(error, self.http.base_url))
                else:
                    effect = flow.send(outcome)
        except StopIteration as stop:
            returned.append(stop.value)
        finally:
            flow.close()
            await stream.close()

    async def close(self) -> None:
        """Close all connections."""
        await self.http.aclose()


class _AwaitingStream:
    """The effects of one flow, and the stream it has open."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.response: httpx.Response | None = None
        self.chunks: AsyncIterator[bytes] | None = None

    async def perform(self, effect: Effect) -> Any:
        match effect:
            case Send(call):
                response = await self.http.request(call.method, call.path, **_arguments(call))
                return _reply(response, response.content)
            case Open(call):
                return await self.open(call)
            case Read():
                return b"" if self.chunks is None else await anext(self.chunks, b"")
            case Pause(seconds):
                await asyncio.sleep(seconds)
        return None

    async def open(self, call: Call) -> Reply:
        await self.close()
        request = self.http.build_request(call.method, call.path, **_arguments(call))
        self.response = await self.http.send(request, stream=True)
        if self.response.is_error:
            return _reply(self.response, await self.response.aread())
        self.chunks = self.response.aiter_bytes()
        return _reply(self.response, b"")

    async def close(self) -> None:
        if self.response is not None:
            await self.response.aclose()
        self.response, self.chunks = None, None
