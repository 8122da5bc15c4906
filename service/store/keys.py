"""API keys `lmb_<prefix>_<secret>`: 160 random bits, of which only the SHA-256 is kept.

A fast hash is right here: the secret is random, so there is nothing to guess from.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from service.store.columns import now
from service.store.ids import Prefix, new_id
from service.store.snapshots import every, one_or_none
from service.store.states import Scope
from service.store.tables import ApiKey


@dataclass(frozen=True)
class CreatedKey:
    """A new key; `clear` is shown once and stored nowhere."""

    row: ApiKey
    clear: str


def create(session: Session, *, name: str, scopes: Collection[Scope]) -> CreatedKey:
    """Make a key with these scopes and return it in the clear, for the only time."""
    prefix = secrets.token_hex(4)
    clear = f"lmb_{prefix}_{secrets.token_hex(20)}"
    values = {
        "id": new_id(Prefix.KEY),
        "name": name,
        "prefix": prefix,
        "sha256": _sha256(clear),
        "scopes": sorted(Scope(scope) for scope in scopes),
    }
    row: ApiKey = one_or_none(session, insert(ApiKey).values(**values).returning(ApiKey))
    return CreatedKey(row, clear)


def find(session: Session, *, clear: str) -> ApiKey | None:
    """The key with this clear text, or None when there is none or it has been revoked."""
    found: ApiKey | None = one_or_none(
        session, select(ApiKey).where(ApiKey.sha256 == _sha256(clear), ApiKey.revoked_at.is_(None))
    )
    return found


def touch(session: Session, *, key_id: str) -> None:
    """Set the time of the key's last use."""
    _set(session, key_id, last_used_at=now())


def revoke(session: Session, *, key_id: str) -> bool:
    """End a key's validity; False when there is no such valid key."""
    return _set(session, key_id, revoked_at=now())


def list_all(session: Session) -> list[ApiKey]:
    """All keys, oldest first, revoked ones too."""
    return every(session, select(ApiKey).order_by(ApiKey.id))


def any_valid(session: Session) -> bool:
    """Whether there is a key that has not been revoked."""
    return session.scalar(select(ApiKey.id).where(ApiKey.revoked_at.is_(None)).limit(1)) is not None


def _set(session: Session, key_id: str, **values: object) -> bool:
    changed = session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(**values)
        .returning(ApiKey.id)
        .execution_options(synchronize_session=False)
    )
    return changed.scalar_one_or_none() is not None


def _sha256(clear: str) -> str:
    return hashlib.sha256(clear.encode()).hexdigest()
