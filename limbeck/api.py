"""Calls on the API: retries, errors, idempotency keys and pages, as flows."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from limbeck.flow import Call, Emit, Flow, Reply, open_stream, send
from limbeck.retry import RetryPolicy, with_retries

Document: TypeAlias = dict[str, Any]
Query: TypeAlias = Mapping[str, str | int]
PAGE_ITEMS = 100


@dataclass(frozen=True)
class Api:
    """What a flow needs to know of the server and of the caller's patience."""

    policy: RetryPolicy = field(default_factory=RetryPolicy)

    def get(self, path: str, query: Query | None = None) -> Flow[Any]:
        """GET below /v1; the answer's JSON."""
        reply = yield from with_retries(send, Call("GET", f"/v1{path}", query or {}), self.policy)
        return reply.json()

    def post(
        self,
        path: str,
        body: Any = None,
        *,
        query: Query | None = None,
        idempotency_key: str | None = None,
        wait_for_worker_seconds: float | None = None,
    ) -> Flow[Any]:
        """POST below /v1; every attempt carries the same Idempotency-Key, so it acts at most once."""
        headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        call = Call("POST", f"/v1{path}", query or {}, body, headers)
        policy = self.policy
        if wait_for_worker_seconds is not None:
            policy = replace(policy, wait_for_worker_seconds=wait_for_worker_seconds)
        reply = yield from with_retries(send, call, policy)
        return reply.json()

    def open(
        self, path: str, *, query: Query | None = None, headers: Mapping[str, str] | None = None
    ) -> Flow[Reply]:
        """GET below /v1, the body to be read piece by piece."""
        call = Call("GET", f"/v1{path}", query or {}, None, headers or {})
        return (yield from with_retries(open_stream, call, self.policy))

    def page(
        self, path: str, query: Query | None = None, *, after: str | None = None, limit: int | None = None
    ) -> Flow[Document]:
        """One page of a list: `data`, `has_more`, `next_cursor`."""
        asked: dict[str, str | int] = {"limit": min(limit or PAGE_ITEMS, PAGE_ITEMS), **(query or {})}
        if after is not None:
            asked["after"] = after
        page: Document = yield from self.get(path, asked)
        return page

    def stream_pages(self, path: str, query: Query | None = None, *, limit: int | None = None) -> Flow[None]:
        """Emits the items of a list; the next page is fetched when the caller gets there."""
        taken = 0
        cursor: str | None = None
        while limit is None or taken < limit:
            page = yield from self.page(path, query, after=cursor, limit=limit and limit - taken)
            for item in page["data"]:
                yield Emit(item)
                taken += 1
            cursor = page.get("next_cursor")
            if not page.get("has_more") or cursor is None:
                return

    def pages(self, path: str, query: Query | None = None) -> Flow[list[Document]]:
        """All items of a list, page after page."""
        items: list[Document] = []
        cursor: str | None = None
        while True:
            page = yield from self.page(path, query, after=cursor)
            items += page["data"]
            cursor = page.get("next_cursor")
            if not page.get("has_more") or cursor is None:
                return items
