"""What the client does, apart from how it is carried out.

Every operation is written once, as a generator (a *flow*) that yields effects - send this call, wait so long,
read on - and receives what came of them. A driver carries the effects out, blocking or awaiting
(`limbeck.drivers`): `Client` and `AsyncClient` share every line of retry, paging, reconnecting and checking.

    def cancel(api, job_id):                    # a flow
        reply = yield Send(Call("POST", f"/v1/jobs/{job_id}/cancel"))
        return reply.json()

A driver throws `ConnectionFailed` into a flow whose call got no answer; any other failure is an answer.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One HTTP request, as data. `path` is absolute, below the server's base address."""

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float | None = None


@dataclass(frozen=True)
class Reply:
    """The answer to a call; header names are lower-case. `content` is empty while a stream is being read."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""

    def json(self) -> Any:
        """The body as JSON; None for an empty or unreadable one."""
        try:
            return json.loads(self.content) if self.content else None
        except ValueError:
            return None


@dataclass(frozen=True)
class Send:
    """Send the call and read the whole answer. Outcome: a Reply."""

    call: Call


@dataclass(frozen=True)
class Open:
    """Send the call and leave the body to be read piece by piece; the stream opened before is closed.

    Outcome: a Reply, with its content only if the status is 400 or more.
    """

    call: Call


@dataclass(frozen=True)
class Read:
    """Read on in the open stream. Outcome: bytes, empty at its end."""


@dataclass(frozen=True)
class Pause:
    """Do nothing for a while. Outcome: None."""

    seconds: float


@dataclass(frozen=True)
class Emit:
    """Hand an item to the caller of a stream. Outcome: None."""

    item: Any


Effect: TypeAlias = Send | Open | Read | Pause | Emit
Flow: TypeAlias = Generator[Effect, Any, T]


def send(call: Call) -> Flow[Reply]:
    """Send and read the answer."""
    reply: Reply = yield Send(call)
    return reply


def open_stream(call: Call) -> Flow[Reply]:
    """Send, and leave the body to `read`."""
    reply: Reply = yield Open(call)
    return reply


def read() -> Flow[bytes]:
    """The next bytes of the open stream; empty at its end."""
    chunk: bytes = yield Read()
    return chunk
