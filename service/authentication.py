"""Who asks, and what they may do.

A request carries an API key as `Authorization: Bearer KEY`; browsers may send it as the password of HTTP
Basic, so that the pages work behind a key too. While the store holds no valid key, requests from this machine
are allowed without one: the server then binds to loopback only (see `service.__main__`).

A page of another site that is open in a user's browser must not act through it: a request that names another
origin is refused when it could change something, and without keys the Host must be this machine (otherwise a
foreign name that is made to point here would get in).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from fastapi import Request

from service.problems import Code, Problem
from service.store import keys
from service.store.session import Store
from service.store.states import Scope
from service.store.tables import ApiKey

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
TOUCH_INTERVAL = timedelta(minutes=1)
_INCLUDED = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.SUBMIT: frozenset({Scope.READ, Scope.SUBMIT}),
    Scope.ADMIN: frozenset(Scope),
}


@dataclass(frozen=True)
class Principal:
    """Who asks: the id of an API key, or `loopback` without one."""

    id: str
    scopes: frozenset[Scope]

    @property
    def key_id(self) -> str | None:
        """The API key's id, if there is one."""
        return None if self is LOOPBACK else self.id


LOOPBACK = Principal("loopback", frozenset(Scope))


def require(scope: Scope) -> Callable[[Request], Principal]:
    """A dependency: the principal, or Problem 401 or 403 when there is none with that scope."""

    def principal_with_scope(request: Request) -> Principal:
        _refuse_other_origins(request)
        principal = authenticate(request, request.app.state.services.store)
        request.scope["principal"] = principal.id
        if scope not in principal.scopes:
            held = ", ".join(sorted(principal.scopes)) or "nothing"
            raise Problem(Code.FORBIDDEN, f"This needs a key with the scope `{scope}`; yours allows {held}.")
        return principal

    return principal_with_scope


def authenticate(request: Request, store: Store) -> Principal:
    """The principal behind a request. Raises Problem 401."""
    clear = _key_of(request)
    with store.session() as session:
        key = keys.find(session, clear=clear) if clear else None
        needs_key = key is None and (clear is not None or keys.any_valid(session))
    if key is not None:
        _touch(store, key)
        return Principal(key.id, frozenset().union(*(_INCLUDED[Scope(scope)] for scope in key.scopes)))
    if needs_key:
        raise _unauthenticated(
            request, "The API key is unknown or revoked." if clear else "No API key was sent."
        )
    if not is_this_machine(request):
        raise _unauthenticated(
            request, "Without API keys only requests from this machine to itself are allowed."
        )
    return LOOPBACK


def is_this_machine(request: Request) -> bool:
    """Whether a request comes from loopback, and was addressed to it by name or number."""
    return (
        request.client is not None
        and is_loopback(request.client.host)
        and is_loopback(request.url.hostname or "")
    )


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _refuse_other_origins(request: Request) -> None:
    origin = request.headers.get("origin")
    if origin is None or request.method in SAFE_METHODS:
        return
    if urlsplit(origin).netloc != request.headers.get("host"):
        raise Problem(Code.CROSS_ORIGIN, f"Requests made by pages of {origin[:200]!r} are refused.")


def _key_of(request: Request) -> str | None:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return None


def _touch(store: Store, key: ApiKey) -> None:
    """Note the key's use, at most once a minute: reading must not cost a write."""
    if key.last_used_at is None or datetime.now(UTC) - key.last_used_at > TOUCH_INTERVAL:
        with store.begin_write() as session:
            keys.touch(session, key_id=key.id)


def _unauthenticated(request: Request, reason: str) -> Problem:
    wants_page = "text/html" in request.headers.get("accept", "")
    challenge = (
        'Basic realm="Limbeck: your API key is the password", charset="UTF-8"' if wants_page else "Bearer"
    )
    detail = f"{reason} Send `Authorization: Bearer KEY`; `python -m service keys create` makes one."
    return Problem(Code.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": challenge})
