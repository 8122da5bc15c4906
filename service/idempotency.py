"""POST requests that act once, however often they are sent: the `Idempotency-Key` header.

Reserving the key, acting and keeping the answer are one transaction: a crash leaves all of it or nothing, and
a second request with the same key waits for the first one's commit and then gets its answer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from service.authentication import Principal
from service.problems import Code, Fault, Problem
from service.store import idempotency
from service.store.session import Session, Store
from service.store.tables import IdempotencyKey

REPLAYED = "Idempotent-Replayed"
KEEP_SECONDS = 72 * 3600.0
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 printable characters, new for each intended action. Sent again with the same "
        "body, the first answer is given again (`Idempotent-Replayed: true`) and nothing else happens.",
    ),
]
Action = Callable[[Session], tuple[int, BaseModel]]


class Once:
    """One POST request, and the key under which it acts once (None: it acts every time)."""

    def __init__(
        self, store: Store, request: Request, *, principal: Principal, key: str | None, body: bytes
    ) -> None:
        if key is not None and not _KEY.fullmatch(key):
            fault = Fault(
                field="header.Idempotency-Key",
                message="must be 1 to 255 printable ASCII characters without spaces",
                remedy="A UUID is a good key.",
            )
            raise Problem(Code.INVALID_REQUEST, "The Idempotency-Key header is refused.", errors=[fault])
        self._store = store
        self._identity = key and idempotency.Request(
            key=key, principal=principal.id, route=f"{request.method} {request.url.path}"
        )
        self._sha256 = hashlib.sha256(request.url.query.encode() + b"\n" + body).hexdigest()

    def replay(self) -> Response | None:
        """The kept answer, if the request was answered before. Raises Problem 422 or 409."""
        if not self._identity:
            return None
        with self._store.session() as session:
            row = idempotency.get(session, request=self._identity)
        return self._answer(row) if row is not None and row.status is not None else None

    def act(self, action: Action) -> Response:
        """Carry out the action and keep its answer, or give the kept one. Raises Problem 422 or 409."""
        with self._store.begin_write() as session:
            if self._identity:
                row = idempotency.reserve(session, request=self._identity, body_sha256=self._sha256)
                if row is not None:
                    return self._answer(row)
            status, resource = action(session)
            content = resource.model_dump(mode="json")
            if self._identity:
                idempotency.complete(session, request=self._identity, status=status, response=content)
        return answer(status, content)

    def _answer(self, row: IdempotencyKey) -> Response:
        if row.body_sha256 != self._sha256:
            raise Problem(
                Code.IDEMPOTENCY_MISMATCH,
                f"The key {row.key!r} was used for another body; use a new key for a new request.",
            )
        if row.status is None:
            raise Problem(
                Code.IDEMPOTENCY_IN_FLIGHT,
                f"The first request with the key {row.key!r} is still being answered; send this one again.",
                headers={"Retry-After": "1"},
            )
        return answer(row.status, row.response or {}, headers={REPLAYED: "true"})


def answer(status: int, content: dict[str, Any], *, headers: dict[str, str] | None = None) -> Response:
    """A resource as JSON, with `Location` if the request made it."""
    location = {"Location": content["links"]["self"]} if status in (201, 202) and "links" in content else {}
    return JSONResponse(content, status_code=status, headers={**location, **(headers or {})})
